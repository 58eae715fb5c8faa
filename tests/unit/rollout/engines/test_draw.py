"""Tokens are drawn with their probabilities, whichever tokens are cut off."""

import math
from fractions import Fraction
from itertools import accumulate

import pytest
import torch
from torch.testing import assert_close
from transformers import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper

from lightning_rlhf.rollout.engines.draw import Draws, draw, invert, seen_tokens
from lightning_rlhf.rollout.sampling import Sampling

FOUR = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()


@pytest.mark.parametrize(
    ("number", "token"),
    [(2**-53, 1), (0.49, 1), (0.51, 2), (0.74, 2), (0.76, 3), (1.0, 3)],
)
def test_a_number_falls_to_the_token_whose_stretch_of_the_unit_interval_holds_it(number: float, token: int) -> None:
    # The probabilities are (0, 1/2, 1/4, 1/4, 0): even at the ends, no token without probability is drawn.
    logits = torch.tensor([[0, 1 / 2, 1 / 4, 1 / 4, 0]]).log()
    draws = draw(logits, torch.tensor([number]), Sampling(max_new_tokens=1))
    assert draws.ids.tolist() == [token]


def test_each_of_128000_tokens_is_drawn_with_its_probability() -> None:
    vocabulary = 128_000
    probs = (1.5 * torch.randn(vocabulary, generator=torch.Generator().manual_seed(0))).softmax(-1)
    # The rarest tokens, which fp32's grid of 2^-24 steps over, and some of all others.
    by_size = probs.argsort()
    tokens = torch.cat([by_size[:40], by_size[40::2000]])
    assert float(probs[by_size[39]]) < 2**-25
    # Both ends of each stretch of the unit interval are exact to 1% of the stretch: adding 128,000 numbers in fp64
    # has an error of 128,000 * 2^-53 = 1.4 * 10^-11 at most.
    assert 0.01 * float(probs.min()) > 1.4e-11
    ends = list(accumulate(map(Fraction, probs.tolist())))  # This is without rounding.
    for share in (Fraction(1, 100), Fraction(99, 100)):
        places = [float((ends[token] - share * Fraction(probs[token].item())) / ends[-1]) for token in tokens.tolist()]
        drawn = invert(probs.expand(len(tokens), -1), torch.tensor(places, dtype=torch.float64))
        assert torch.equal(drawn, tokens)


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ({}, {0, 1, 2, 3}),
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.75}, {0, 1, 2}),  # 0.4 + 0.3 are not enough.
        ({"top_p": 0.5}, {0, 1}),
        ({"top_p": 0.39}, {0}),
        ({"top_k": 3, "top_p": 0.7}, {0, 1}),  # The three likeliest are renormalised to 4/9, 3/9 and 2/9.
        ({"temperature": 1e-3}, {0}),
    ],
)
def test_top_k_and_top_p_cut_off_the_unlikely_tokens(settings: dict[str, float], tokens: set[int]) -> None:
    draws = draw(FOUR.expand(100, 4), torch.arange(1, 101) / 100, Sampling(max_new_tokens=1, **settings))
    assert set(draws.ids.tolist()) == tokens


def test_the_logprobs_are_those_of_what_top_k_and_top_p_leave() -> None:
    # Of 0.4, 0.3, 0.2, 0.1 the first three remain, with 4/9, 3/9 and 2/9.
    for settings in ({"top_k": 3}, {"top_p": 0.85}):
        sampling = Sampling(max_new_tokens=1, **settings)
        tokens, logprobs, _ = draw(FOUR.expand(3, 4), torch.tensor([0.1, 0.5, 0.9]), sampling)
        assert tokens.tolist() == [0, 1, 2]
        assert_close(logprobs, torch.tensor([4 / 9, 3 / 9, 2 / 9]).log())


@pytest.mark.parametrize("settings", [{"min_p": 0.3}, {"repetition_penalty": 1.8}, {"repetition_penalty": 0.5}])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_further_settings_give_the_distribution_of_transformers(settings: dict[str, float], temperature: float) -> None:
    logits = 3 * torch.randn(2, 12, generator=torch.Generator().manual_seed(1))
    prompts = [[4, 4, 0, 7], [11, 2, 3, 5]]
    sampling = Sampling(max_new_tokens=1, temperature=temperature, **settings)
    expected = logits
    if sampling.repetition_penalty != 1:
        expected = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(torch.tensor(prompts), expected)
    expected = TemperatureLogitsWarper(temperature)(None, expected) if temperature != 1 else expected
    if sampling.min_p:
        expected = MinPLogitsWarper(sampling.min_p)(None, expected)
    probs = expected.softmax(-1)
    # A grid of random numbers finds each token that has at least a thousandth.
    numbers = torch.arange(1, 2001, dtype=torch.float64) / 2000
    seen = seen_tokens(prompts, logits, sampling)
    for row in range(2):
        tokens, logprobs, _ = draw(
            logits[row].expand(2000, -1), numbers, sampling, None if seen is None else seen[row].expand(2000, -1)
        )
        assert_close(logprobs, probs[row][tokens].log())
        assert {*tokens.tolist()} >= {*(probs[row] > 1e-3).nonzero().flatten().tolist()}
        assert (probs[row][tokens] > 0).all()


def test_tokens_are_marked_only_where_a_penalty_needs_it() -> None:
    assert seen_tokens([[1]], FOUR, Sampling(max_new_tokens=1)) is None
    seen = seen_tokens([[1, 3, 1], []], FOUR, Sampling(max_new_tokens=1, repetition_penalty=1.1))
    assert seen is not None
    assert seen.tolist() == [[False, True, False, True], 4 * [False]]


def test_a_greedy_choice_is_certain() -> None:
    tokens, logprobs, _ = draw(FOUR, torch.ones(1), Sampling(max_new_tokens=1, temperature=0))
    assert (tokens.tolist(), logprobs.tolist()) == ([0], [0.0])


@pytest.mark.parametrize("settings", [{}, {"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.1}, {"repetition_penalty": 1.8}])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_entropy_is_that_of_the_distribution_that_is_drawn_from(
    settings: dict[str, float], temperature: float
) -> None:
    vocabulary, sampling = 40, Sampling(max_new_tokens=1, temperature=temperature, **settings)
    logits = 50 + 3 * torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(4))
    numbers = torch.arange(1, 10_001, dtype=torch.float64) / 10_000
    seen = seen_tokens([[3, 5, 8]], logits, sampling)
    draws = draw(
        logits.expand(len(numbers), -1),
        numbers,
        sampling,
        None if seen is None else seen.expand(len(numbers), -1),
        entropy=True,
    )
    # The log-prob of each token that is drawn gives the whole distribution, up to what is drawn less than once.
    logprobs = dict(zip(draws.ids.tolist(), draws.logprobs.double().tolist(), strict=True))
    expected = -sum(logprob * math.exp(logprob) for logprob in logprobs.values())
    assert draws.entropies is not None
    assert_close(draws.entropies, torch.full((len(numbers),), expected), atol=0.01, rtol=0)
    if not settings:
        exact = torch.distributions.Categorical(logits=logits.double() / temperature).entropy()
        assert_close(draws.entropies, exact.float().expand(len(numbers)), atol=3e-5, rtol=0)


def test_entropies_are_computed_for_those_who_ask() -> None:
    assert draw(FOUR, torch.ones(1), Sampling(max_new_tokens=1)).entropies is None
    greedy = draw(FOUR, torch.ones(1), Sampling(max_new_tokens=1, temperature=0), entropy=True)
    assert greedy.entropies is not None
    assert greedy.entropies.tolist() == [0.0]


def test_all_numbers_of_a_row_are_fetched_together() -> None:
    draws = Draws(torch.tensor([2, 128_001]), torch.tensor([-0.5, -1.5]))
    assert draws.fetched() == [[2, -0.5], [128_001, -1.5]]
    assert draws._replace(entropies=torch.tensor([0.25, 4.0])).fetched() == [[2, -0.5, 0.25], [128_001, -1.5, 4.0]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_lost_weights_give_tokens_of_the_vocabulary_and_logprobs_that_are_none(temperature: float) -> None:
    sampling = Sampling(max_new_tokens=1, temperature=temperature)
    tokens, logprobs, entropies = draw(torch.full((2, 10), torch.nan), torch.full((2,), 0.5), sampling, entropy=True)
    assert all(0 <= token < 10 for token in tokens.tolist())
    assert logprobs.isnan().all()
    assert entropies is not None
    assert entropies.isnan().all()
