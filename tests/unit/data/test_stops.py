"""The tokens that end an answer never begin a turn, and always exist."""

from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.source import ModelSource

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]
DEMO = ModelSource(config={"model_type": "llama"}, tokenizer="pkg://lightning_rlhf.demo/tokenizer")
CHATML = (
    "{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As in GLM-4, only the marker of the next turn ends an answer.
ENDLESS = (
    "{% for m in messages %}{{ '<|im_start|>' if m['role'] == 'user' else '<|im_end|>' }}{{ m['content'] }}{% endfor %}"
)
ENDLESS += "{% if add_generation_prompt %}{{ '<|im_end|>' }}{% endif %}"


@pytest.mark.parametrize(("stop", "name"), [(1, r"<\|user\|>"), (2, r"<\|assistant\|>")])
def test_a_token_that_begins_a_turn_ends_no_answer(stop: int, name: str) -> None:
    with pytest.raises(
        UserError, match=rf"stop token {stop}: it is {name}, .* begins a turn.* generation_config\.json"
    ):
        Renderer(DEMO.load_tokenizer(), stop_ids=[stop])
    # `<|end|>` and an ordinary token are accepted.
    assert Renderer(DEMO.load_tokenizer(), stop_ids=[3, 100]).stop_ids == (3, 100)


@pytest.mark.parametrize("stop", [-1, 814, 128009])
def test_an_id_that_is_no_token_ends_no_answer(stop: int) -> None:
    assert len(DEMO.load_tokenizer()) == 814
    with pytest.raises(UserError, match=f"stop token {stop}: the tokenizer has no token of this id"):
        Renderer(DEMO.load_tokenizer(), stop_ids=[stop])


def test_all_wrong_ids_are_told_at_once() -> None:
    with pytest.raises(UserError, match=r"(?s)stop token 2: .*stop token 900: "):
        Renderer(DEMO.load_tokenizer(), stop_ids=[900, 2])


def test_the_end_of_a_turn_is_no_beginning_though_every_turn_has_it(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(template=CHATML)
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert end in Renderer(tokenizer, stop_ids=[end]).stop_ids
    with pytest.raises(UserError, match=rf"stop token {start}: it is <\|im_start\|>,"):
        Renderer(tokenizer, stop_ids=[start])


def test_bos_may_be_eos(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(bos=True)
    tokenizer.eos_token = tokenizer.bos_token
    for template in ("plain", "raw"):
        assert Renderer(tokenizer, template).stop_ids == (tokenizer.bos_token_id,)
    both = (tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>"))
    assert Renderer(tokenizer, "{{ bos_token }}" + CHATML).stop_ids == both


TURN = "{% for m in messages %}{{ '<|im_start|>' + m['content'] + END }}{% endfor %}"


@pytest.mark.parametrize(
    ("end", "stops"),
    [
        ("'<|im_end|>\n'", {"</s>", "<|im_end|>"}),
        ("'\n<|im_end|>' + eos_token", {"</s>", "<|im_end|>"}),
        ("'</answer><|im_end|>'", {"</s>", "<|im_end|>"}),
        ("'</answer>'", {"</s>", "</answer>"}),
        ("eos_token", {"</s>"}),
        ("'<|end_of_turn|>'", {"</s>"}),
        ("'\n'", {"</s>"}),
    ],
)
def test_the_token_with_which_the_template_ends_a_turn_ends_an_answer(
    make_tokenizer: MakeTokenizer, end: str, stops: set[str]
) -> None:
    tokenizer = make_tokenizer(template=TURN.replace("END", end))
    tokenizer.add_tokens(["</answer>"])
    assert set(tokenizer.convert_ids_to_tokens(list(Renderer(tokenizer).stop_ids))) == stops


def test_where_the_next_turn_ends_an_answer_its_marker_may(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(template=ENDLESS)
    user, assistant = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert user in Renderer(tokenizer, stop_ids=[user]).stop_ids
    with pytest.raises(UserError, match=f"stop token {assistant}: "):
        Renderer(tokenizer, stop_ids=[assistant])
