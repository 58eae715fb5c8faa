"""Texts that PPO continues to imitate, and which of their tokens are learnt."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from lightning_rlhf.data.ptx import read_ptx
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError


@pytest.fixture(scope="module")
def renderer(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> Renderer:
    return Renderer(make_tokenizer())


def write(folder: Path, rows: list[dict[str, Any]]) -> str:
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "texts.jsonl")


def test_every_token_of_a_plain_text_is_learnt_that_another_one_precedes(renderer: Renderer, tmp_path: Path) -> None:
    texts = ["The answer is here.", " Four"]
    rows = read_ptx(write(tmp_path, [{"text": text} for text in texts]), renderer, 100, "raise")
    eos = renderer.tokenizer.eos_token_id
    assert [row.ids.tolist() for row in rows] == [[*renderer.tokenizer(text)["input_ids"], eos] for text in texts]
    assert all(row.loss_mask.tolist() == [False] + [True] * (len(row.ids) - 1) for row in rows)
    assert [renderer.tokenizer.decode(row.ids[:-1]) for row in rows] == texts


def test_special_tokens_of_plain_texts_are_those_that_the_tokenizer_sets(
    make_tokenizer: Callable[..., PreTrainedTokenizerFast], tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(bos=True)
    (row,) = read_ptx(write(tmp_path, [{"text": "Four"}]), Renderer(tokenizer), 100, "raise")
    assert row.ids.tolist().count(tokenizer.bos_token_id) == 1
    assert row.ids[0] == tokenizer.bos_token_id


def test_a_plain_text_that_is_too_long_is_cut(renderer: Renderer, tmp_path: Path) -> None:
    long, short = read_ptx(write(tmp_path, [{"text": "word " * 50}, {"text": "a"}]), renderer, 10, "raise")
    assert long.ids.tolist() == renderer.tokenizer("word " * 50)["input_ids"][:10]
    assert len(long.loss_mask) == 10
    assert short.ids[-1] == renderer.tokenizer.eos_token_id


def test_of_demonstrations_the_answers_are_learnt(renderer: Renderer, tmp_path: Path) -> None:
    path = write(
        tmp_path, [{"prompt": "What is two?", "completion": "Two."}, {"prompt": "And?", "completion": "x" * 99}]
    )
    (row,) = read_ptx(path, renderer, 40, "raise")
    messages = [{"role": "user", "content": "What is two?"}, {"role": "assistant", "content": "Two."}]
    expected = renderer.conversation(messages)  # type: ignore[arg-type]
    assert (row.ids.tolist(), row.loss_mask.tolist()) == expected
    assert 0 < sum(row.loss_mask) < len(row.ids)


def test_a_wrong_demonstration_stops_or_is_skipped(renderer: Renderer, tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "What is two?", "completion": "Two."}, {"prompt": "And?", "completion": 3}])
    with pytest.raises(UserError, match="texts.jsonl:2: field 'completion'"):
        read_ptx(path, renderer, 40, "raise")
    assert len(read_ptx(path, renderer, 40, "skip")) == 1


def test_a_path_that_leads_nowhere_is_named(renderer: Renderer) -> None:
    with pytest.raises(UserError, match="'./nowhere.jsonl' does not exist"):
        read_ptx("./nowhere.jsonl", renderer, 40, "raise")


def test_a_plain_text_without_a_text_is_named(renderer: Renderer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="texts.jsonl:2: "):
        read_ptx(write(tmp_path, [{"text": "Four"}, {"other": "Five"}]), renderer, 40, "raise")
