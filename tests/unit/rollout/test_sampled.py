"""Responses in the layout of the update: prompts are padded on the left, and responses on the right."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_rlhf.data.batches import pad
from lightning_rlhf.rollout.engines.engine import Completion, Decode, Request, Token
from lightning_rlhf.rollout.sampled import Sampled, sample, sample_parts
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey

PROMPTS = [[11, 12, 13], [7], [21, 0]]
KEYS = [RandomKey(5, (SAMPLING,), row) for row in range(3)]
COMPLETIONS = [
    Completion(0, [4, 3], [-0.5, -0.25], "stop", 7),
    Completion(1, [5, 0, 5, 5], [-1.0, -2.0, -3.0, -4.0], "length", 7),
    Completion(2, [3], [float("nan")], "stop", 8),
]


class Canned:
    """An engine that gives prepared responses."""

    shares_weights = True
    weights_version = 7

    def __init__(self, completions: list[Completion]) -> None:
        self.completions, self.requests = completions, list[Request]()

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        stop_ids: tuple[int, ...],
        decode: Decode | None = None,
    ) -> list[Completion]:
        raise AssertionError

    def iterate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        stop_ids: tuple[int, ...],
        decode: Decode | None = None,
    ) -> Iterator[Completion]:
        self.requests += requests
        yield from self.completions

    def stream(
        self, request: Request, sampling: Sampling, *, stop_ids: tuple[int, ...], decode: Decode | None = None
    ) -> Iterator[Token]:
        yield from ()

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        raise AssertionError

    def release(self) -> None:
        raise AssertionError

    resume = release


def sampled_from(engine: Canned, width: int = 5) -> Sampled:
    return sample(engine, *pad(PROMPTS, "left"), KEYS, Sampling(max_new_tokens=width), stop_ids=(3,))


def test_the_engine_gets_ids_without_padding_each_with_its_key() -> None:
    engine = Canned(COMPLETIONS)
    sampled_from(engine)
    assert engine.requests == list(map(Request, PROMPTS, KEYS))


def test_the_mask_holds_the_stop_token_and_nothing_behind_it() -> None:
    sequences = sampled_from(Canned(COMPLETIONS)).sequences
    assert sequences.input_ids.tolist() == [
        [11, 12, 13, 4, 3, 0, 0, 0],
        [0, 0, 7, 5, 0, 5, 5, 0],
        [0, 21, 0, 3, 0, 0, 0, 0],
    ]
    response_mask = [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]]
    prompt_mask = [[1, 1, 1], [0, 0, 1], [0, 1, 1]]
    assert sequences.response_mask.int().tolist() == response_mask
    assert sequences.attention_mask.int().tolist() == [p + r for p, r in zip(prompt_mask, response_mask, strict=True)]


def test_logprobs_stand_on_their_tokens_and_what_is_known_of_a_response_in_its_row() -> None:
    sampled = sampled_from(Canned(COMPLETIONS))
    assert sampled.logprobs.dtype == torch.float32
    assert sampled.logprobs[:2].tolist() == [[-0.5, -0.25, 0, 0, 0], [-1, -2, -3, -4, 0]]
    assert sampled.logprobs[2].isnan().tolist() == [True, False, False, False, False]
    assert sampled.finished.tolist() == [True, False, True]
    assert sampled.weights_version.tolist() == [[7], [7], [8]]


def test_entropies_stand_on_their_tokens_if_the_engine_gives_them() -> None:
    assert sampled_from(Canned(COMPLETIONS)).entropies is None
    known = [one._replace(entropies=[0.5 + place for place in range(len(one.ids))]) for one in COMPLETIONS]
    entropies = sampled_from(Canned(known)).entropies
    assert entropies is not None
    assert entropies.tolist() == [[0.5, 1.5, 0, 0, 0], [0.5, 1.5, 2.5, 3.5, 0], [0.5, 0, 0, 0, 0]]
    assert sampled_from(Canned([*known[:2], COMPLETIONS[2]])).entropies is None


@pytest.mark.parametrize(
    ("as_they_end", "at_a_time", "expected"),
    [
        # The response to the second prompt ends first, and that to the first one last.
        (False, 1, ["1", "2", "0", [0], [1], [2]]),
        (True, 1, ["1", [1], "2", [2], "0", [0]]),
        (False, 2, ["1", "2", "0", [0, 1], [2]]),
        (True, 2, ["1", "2", [1, 2], "0", [0]]),
        (True, 3, ["1", "2", "0", [1, 2, 0]]),
    ],
)
def test_parts_come_as_soon_as_all_of_their_responses_have_ended(
    as_they_end: bool, at_a_time: int, expected: list[Any]
) -> None:
    happened: list[Any] = []

    class Recorded(Canned):
        def iterate(self, *arguments: Any, **settings: Any) -> Iterator[Completion]:
            for completion in super().iterate(*arguments, **settings):
                happened.append(str(completion.request))
                yield completion

    engine = Recorded([COMPLETIONS[row] for row in (1, 2, 0)])
    whole = sampled_from(Canned(COMPLETIONS))
    parts = sample_parts(
        engine,
        *pad(PROMPTS, "left"),
        KEYS,
        Sampling(max_new_tokens=5),
        at_a_time,
        as_they_end=as_they_end,
        stop_ids=(3,),
    )
    for rows, part in parts:
        happened.append(rows)
        assert torch.equal(part.sequences.input_ids, whole.sequences.input_ids[rows])
        assert torch.equal(part.sequences.attention_mask, whole.sequences.attention_mask[rows])
        assert part.finished.tolist() == whole.finished[rows].tolist()
    assert happened == expected


def test_a_response_beyond_the_limit_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="size"):
        sampled_from(Canned(COMPLETIONS), width=3)
