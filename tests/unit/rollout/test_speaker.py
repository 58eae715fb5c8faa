"""A trained model that answers conversations, on a tiny model with random weights."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.export import export_model
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.rollout.speaker import Reply, Speaker, load_speaker
from lightning_rlhf.seeding import SAMPLING, RandomKey

TALK = [{"role": "user", "content": "My kettle leaks."}]
KEY = RandomKey(1, (SAMPLING, 0), row=0)


@pytest.fixture(scope="module")
def folder(make_source: Callable, make_causal_lm: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source: ModelSource = make_source("llama", vocab_size=814, max_position_embeddings=64)
    renderer = Renderer(source.load_tokenizer())
    return export_model(make_causal_lm(source), renderer, tmp_path_factory.mktemp("model") / "model", {})


@pytest.fixture(scope="module")
def speaker(folder: Path) -> Speaker:
    return load_speaker(str(folder), "model_dir")


def test_a_stream_grows_into_the_answer_that_a_batch_gives(speaker: Speaker) -> None:
    sampling = Sampling(max_new_tokens=20)
    other = RandomKey(1, (SAMPLING, 1), row=0)
    batch = dict(speaker.answers([TALK, TALK], sampling, [KEY, other]))
    parts = list(speaker.stream(TALK, sampling, KEY))
    assert parts[-1] == batch[0]
    assert batch[0].text != batch[1].text
    assert [part.finish_reason for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert parts[-1].finish_reason in ("stop", "length")
    for one, other_part in zip(parts, parts[1:], strict=False):
        assert other_part.text.startswith(one.text)
        assert other_part.num_tokens > one.num_tokens
    assert not any(part.text.endswith("\ufffd") for part in parts[:-1])


def test_the_same_key_gives_the_same_answer(speaker: Speaker) -> None:
    def last(key: RandomKey) -> Reply:
        return list(speaker.stream(TALK, Sampling(max_new_tokens=12), key))[-1]

    assert last(KEY) == last(KEY) != last(RandomKey(2, (SAMPLING, 0), row=0))


def test_an_answer_takes_no_more_than_the_room_that_is_left(speaker: Speaker) -> None:
    room = speaker.room(speaker.renderer.prompt(TALK))
    assert 0 < room < 64
    sampling = Sampling(max_new_tokens=500, temperature=0)
    assert list(speaker.stream(TALK, sampling, KEY))[-1].num_tokens <= room
    with pytest.raises(UserError, match=r"sampling.max_new_tokens=500: .* reads at most 64 tokens, and a prompt has"):
        list(speaker.answers([TALK], sampling, [KEY]))
    long = [{"role": "user", "content": "kettle " * 80}]
    with pytest.raises(UserError, match=r"tokens, and .* reads at most 64: take back a turn"):
        list(speaker.stream(long, sampling, KEY))


def test_a_folder_that_does_not_exist_is_named_by_its_setting() -> None:
    with pytest.raises(UserError, match="against"):
        load_speaker("/no/such/folder", "against")
