"""A server of an export gives the model the ids that it was trained on."""

import json
from collections.abc import Callable
from importlib.resources import files
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from meta_llama import write_sentencepiece
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lightning_rlhf.data.fields import Message
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.serving import served_otherwise
from lightning_rlhf.models.locations import bare_tokenizer

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Answers begin directly after a control token.
BARE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}"
)
# This template is like that of Llama 2.
INST = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)


def talks(count: int) -> list[list[Message]]:
    """Prompts of two questions with an answer between them."""
    demo = files("lightning_rlhf.demo").joinpath("demonstrations.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in demo.splitlines()[: count + 1]]
    return [
        [
            Message(role="user", content=one["prompt"]),
            Message(role="assistant", content=one["completion"]),
            Message(role="user", content=two["prompt"]),
        ]
        for one, two in pairwise(rows)
    ]


def served(tokenizer: Any, messages: list[Message]) -> list[int]:
    return tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize(
    ("kind", "template"),
    [("bytes", "plain"), *product(["bytes", "llama"], ["raw", CHATML, BARE, INST])],
)
def test_served_prompts_have_the_ids_of_training(
    make_tokenizer: MakeTokenizer, kind: str, bos: bool, template: str, tmp_path: Path
) -> None:
    renderer = Renderer(make_tokenizer(kind, bos=bos), template)
    renderer.tokenizer.save_pretrained(tmp_path)
    exported = AutoTokenizer.from_pretrained(tmp_path)
    for talk in talks(20):
        assert renderer.prompt(talk) == served(exported, talk)
    assert served_otherwise(renderer, exported) is None


def test_prompts_of_a_sentencepiece_model_too(tmp_path: Path) -> None:
    write_sentencepiece(tmp_path)
    tokenizer = bare_tokenizer(str(tmp_path), "model.tokenizer")
    assert tokenizer is not None
    renderer = Renderer(tokenizer)
    renderer.tokenizer.save_pretrained(tmp_path / "out")
    exported = AutoTokenizer.from_pretrained(tmp_path / "out")
    for talk in talks(430):
        assert renderer.prompt(talk) == served(exported, talk)


def test_ids_that_cannot_be_those_of_training_are_told(make_tokenizer: MakeTokenizer) -> None:
    # Here the token "t:▁" spans the end of the prompt, "Assistant:", and the start of the answer, " Is it".
    renderer = Renderer(make_tokenizer("llama"))
    found = served_otherwise(renderer, renderer.tokenizer)
    assert found is not None
    trained, served_tokens = found.split("where")
    assert "'t', ':', '▁'" in trained
    assert "'t:▁'" in served_tokens


def test_a_template_that_takes_one_question_alone_is_tried_with_one(make_tokenizer: MakeTokenizer) -> None:
    once = "{% if messages | length > 1 %}{{ raise_exception('one question') }}{% endif %}{{ messages[0]['content'] }}"
    renderer = Renderer(make_tokenizer(), once)
    assert served_otherwise(renderer, renderer.tokenizer) is None
    other = make_tokenizer("llama")
    other.chat_template = once
    assert served_otherwise(renderer, other) is not None
