"""Sampling against a loop that runs each row alone, without padding and without a cache."""

from collections.abc import Callable
from fractions import Fraction
from itertools import accumulate
from math import log
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import PreTrainedModel

from lightning_rlhf.data.batches import pad
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.sampler import Sampled, Sampling, invert, sample

MakeSource = Callable[..., ModelSource]
MakeNet = Callable[..., PreTrainedModel]
PROMPTS = 3 * [[11, 12, 13, 14], [7], [21, 7, 2], [3, 4], [5, 6, 5, 6, 5], [60, 61], [9]]
MAX_NEW = 12
STOPS = tuple(range(2, 64, 4))
NUMBERS = 1 - torch.rand(len(PROMPTS), MAX_NEW, generator=torch.Generator().manual_seed(0))
WHOLE = Sampling(max_new_tokens=MAX_NEW, temperature=4.0)


def draw(
    net: nn.Module, prompts: list[list[int]], sampling: Sampling, numbers: Tensor, stops: tuple[int, ...]
) -> Sampled:
    with torch.no_grad():
        return sample(net, *pad(prompts, "left"), sampling, stop_ids=stops, uniforms=numbers)


def responses_of(sampled: Sampled) -> list[list[int]]:
    sequences = sampled.sequences
    return [row[mask].tolist() for row, mask in zip(sequences.responses, sequences.response_mask, strict=True)]


@torch.no_grad()
def naive_response(net: nn.Module, prompt: list[int], sampling: Sampling, numbers: Tensor) -> list[int]:
    """Runs the whole prefix through the net for each token, and inverts the distribution function by counting."""
    ids = list(prompt)
    for number in numbers.tolist():
        logits = net(torch.tensor([ids])).logits[0, -1].double()
        if sampling.temperature == 0:
            token = int(logits.argmax())
        else:
            below = (logits / sampling.temperature).softmax(-1).cumsum(-1) < number
            token = int(below.sum())
        ids.append(token)
        if token in STOPS:
            break
    return ids[len(prompt) :]


def naive_responses(net: nn.Module, sampling: Sampling) -> list[list[int]]:
    return [naive_response(net, prompt, sampling, row) for prompt, row in zip(PROMPTS, NUMBERS, strict=True)]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 4.0])
def test_tokens_are_those_of_a_loop_without_batch_and_cache(
    source: ModelSource, make_causal_lm: MakeNet, temperature: float
) -> None:
    net, sampling = make_causal_lm(source), Sampling(max_new_tokens=MAX_NEW, temperature=temperature)
    expected = naive_responses(net, sampling)
    sampled = draw(net, PROMPTS, sampling, NUMBERS, STOPS)
    assert responses_of(sampled) == expected
    assert sampled.finished.tolist() == [response[-1] in STOPS for response in expected]


def test_the_logprobs_are_those_of_what_top_k_and_top_p_leave() -> None:
    # Of 0.4, 0.3, 0.2, 0.1 the first three are left, and have 4/9, 3/9 and 2/9.
    table = torch.tensor([[log(0.4), log(0.3), log(0.2), log(0.1)]]).expand(4, 4)
    for settings in ({"top_k": 3}, {"top_p": 0.85}):
        sampling = Sampling(max_new_tokens=1, **settings)
        sampled = draw(Chain(table), [[0]] * 3, sampling, torch.tensor([[0.1], [0.5], [0.9]]), ())
        assert responses_of(sampled) == [[0], [1], [2]]
        assert_close(sampled.logprobs[:, 0], torch.tensor([4 / 9, 3 / 9, 2 / 9]).log())


def test_a_greedy_choice_is_certain() -> None:
    sampled = draw(COUNT_UP, [[0], [5]], Sampling(max_new_tokens=4, temperature=0), torch.ones(2, 4), (8,))
    assert not sampled.logprobs.any()


def test_a_response_does_not_depend_on_the_rest_of_its_batch(source: ModelSource, make_causal_lm: MakeNet) -> None:
    net = make_causal_lm(source)
    together = responses_of(draw(net, PROMPTS, WHOLE, NUMBERS, STOPS))
    alone = [draw(net, [prompt], WHOLE, NUMBERS[row : row + 1], STOPS) for row, prompt in enumerate(PROMPTS)]
    assert [responses_of(sampled)[0] for sampled in alone] == together
    backwards = draw(net, PROMPTS[::-1], WHOLE, NUMBERS.flip(0), STOPS)
    assert responses_of(backwards) == together[::-1]


def test_finished_rows_leave_the_batch_and_the_others_go_on_as_before(
    source: ModelSource, make_causal_lm: MakeNet
) -> None:
    net, batch_sizes = make_causal_lm(source), []
    expected = naive_responses(net, WHOLE)
    handle = net.register_forward_pre_hook(
        lambda _, args, kwargs: batch_sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    sampled = draw(net, PROMPTS, WHOLE, NUMBERS, STOPS)
    handle.remove()
    # Rows that go on after each token: once they are at most half of the batch, the batch is these rows.
    sizes = [len(PROMPTS)]
    for step in range(1, max(map(len, expected))):
        active = sum(len(response) > step for response in expected)
        sizes.append(active if active <= sizes[-1] // 2 else sizes[-1])
    assert len(set(sizes)) > 2, "the example must shrink more than once"
    assert batch_sizes == sizes
    assert responses_of(sampled) == expected


def test_the_mask_holds_the_stop_token_and_nothing_behind_it(make_source: MakeSource, make_causal_lm: MakeNet) -> None:
    net = make_causal_lm(make_source("gpt2"))
    sequences = draw(net, PROMPTS, WHOLE, NUMBERS, STOPS).sequences
    ids, mask = pad(PROMPTS, "left")
    assert sequences.input_ids.shape == (len(PROMPTS), ids.shape[1] + MAX_NEW)
    assert torch.equal(sequences.input_ids[:, : ids.shape[1]], ids)
    assert torch.equal(sequences.attention_mask, torch.cat([mask, sequences.response_mask], dim=1))
    for row, response in enumerate(naive_responses(net, WHOLE)):
        length = len(response)
        assert sequences.response_mask[row].tolist() == [True] * length + [False] * (MAX_NEW - length)
        assert sequences.responses[row].tolist() == response + [0] * (MAX_NEW - length)


class Chain(nn.Module):
    """Gives each token the logits that a table has for it; keeps no cache."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **kwargs: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table[input_ids], past_key_values=None)


COUNT_UP = Chain(torch.eye(10).roll(1, dims=1))


@pytest.mark.parametrize(
    ("stops", "expected", "finished"),
    [
        ((3,), [[1, 2, 3], [6, 7, 8, 9]], [True, False]),
        ((8, 3), [[1, 2, 3], [6, 7, 8]], [True, True]),  # each of several
        ((6, 1), [[1], [6]], [True, True]),  # at once
        ((4,), [[1, 2, 3, 4], [6, 7, 8, 9]], [True, False]),  # at the limit
        ((), [[1, 2, 3, 4], [6, 7, 8, 9]], [False, False]),
    ],
)
def test_each_stop_token_ends_a_response_and_else_the_limit_does(
    stops: tuple[int, ...], expected: list[list[int]], finished: list[bool]
) -> None:
    sampled = draw(COUNT_UP, [[0], [5]], Sampling(max_new_tokens=4, temperature=0), torch.ones(2, 4), stops)
    assert responses_of(sampled) == expected
    assert sampled.finished.tolist() == finished


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_lost_weights_give_tokens_of_the_vocabulary_and_logprobs_that_are_none(temperature: float) -> None:
    table = torch.eye(10).masked_fill(torch.eye(10) == 0, torch.nan)
    sampling = Sampling(max_new_tokens=2, temperature=temperature)
    sampled = draw(Chain(table), [[0], [5]], sampling, torch.full((2, 2), 0.5), ())
    assert all(0 <= token < 10 for response in responses_of(sampled) for token in response)
    assert sampled.logprobs.isnan().all()


def test_id_0_can_be_a_stop_token() -> None:
    sampled = draw(COUNT_UP, [[8], [1]], Sampling(max_new_tokens=4, temperature=0), torch.ones(2, 4), (0,))
    assert responses_of(sampled) == [[9, 0], [2, 3, 4, 5]]
    assert sampled.finished.tolist() == [True, False]


@pytest.mark.parametrize(
    ("number", "token"),
    [(2**-53, 1), (0.49, 1), (0.51, 2), (0.74, 2), (0.76, 3), (1.0, 3)],
)
def test_a_number_falls_to_the_token_whose_stretch_of_the_unit_interval_holds_it(number: float, token: int) -> None:
    # Probabilities (0, 1/2, 1/4, 1/4, 0): even at the ends no token without probability is drawn.
    table = torch.tensor([[0, 1 / 2, 1 / 4, 1 / 4, 0]]).log().expand(5, 5)
    sampled = draw(Chain(table), [[0]], Sampling(max_new_tokens=1), torch.tensor([[number]]), ())
    assert responses_of(sampled) == [[token]]


def test_each_of_128000_tokens_is_drawn_with_its_probability() -> None:
    vocabulary = 128_000
    probs = (1.5 * torch.randn(vocabulary, generator=torch.Generator().manual_seed(0))).softmax(-1)
    # The rarest tokens, which fp32's grid of 2^-24 steps over, and some of all others.
    by_size = probs.argsort()
    tokens = torch.cat([by_size[:40], by_size[40::2000]])
    assert float(probs[by_size[39]]) < 2**-25
    # Both ends of each stretch of the unit interval are right to 1% of the stretch: adding 128,000 numbers in fp64 is
    # off by 128,000 * 2^-53 = 1.4 * 10^-11 at most.
    assert 0.01 * float(probs.min()) > 1.4e-11
    ends = list(accumulate(map(Fraction, probs.tolist())))  # without rounding
    for share in (Fraction(1, 100), Fraction(99, 100)):
        places = [float((ends[token] - share * Fraction(probs[token].item())) / ends[-1]) for token in tokens.tolist()]
        drawn = invert(probs.expand(len(tokens), -1), torch.tensor(places, dtype=torch.float64))
        assert torch.equal(drawn, tokens)


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ({}, {0, 1, 2, 3}),
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.75}, {0, 1, 2}),  # 0.4 + 0.3 are not enough
        ({"top_p": 0.5}, {0, 1}),
        ({"top_p": 0.39}, {0}),
        ({"top_k": 3, "top_p": 0.7}, {0, 1}),  # of the three likeliest renormalised to 4/9, 3/9, 2/9
        ({"temperature": 1e-3}, {0}),
    ],
)
def test_top_k_and_top_p_cut_off_the_unlikely_tokens(settings: dict[str, float], tokens: set[int]) -> None:
    table = torch.tensor([[log(0.4), log(0.3), log(0.2), log(0.1)]]).expand(4, 4)
    numbers = torch.arange(1, 101).view(-1, 1) / 100
    sampled = draw(Chain(table), [[0]] * 100, Sampling(max_new_tokens=1, **settings), numbers, ())
    assert {response[0] for response in responses_of(sampled)} == tokens


def test_impossible_settings_are_named_all_at_once() -> None:
    with pytest.raises(UserError) as caught:
        Sampling(max_new_tokens=0, temperature=-1.0, top_k=-2, top_p=0.0)
    for name_and_value in ("max_new_tokens=0", "temperature=-1.0", "top_k=-2", "top_p=0.0"):
        assert name_and_value in str(caught.value)


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.9}])
def test_a_rollout_samples_from_the_whole_distribution(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match="it must be the whole one"):
        Sampling(max_new_tokens=4, **settings).check_for_rollout()
    Sampling(max_new_tokens=4, temperature=0.7).check_for_rollout()
