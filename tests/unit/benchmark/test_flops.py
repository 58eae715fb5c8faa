"""Both counts of FLOPs against arithmetic by hand."""

import pytest
from tiny_jobs import ACTOR, BLOCK, CRITIC, job

from lightning_rlhf.benchmark.flops import counted, honest, of_predecessors

PROMPTS, RESPONSES = [12, 3, 7], [2, 6, 5]
LENGTHS = [14, 9, 12]
# The actor scores no response after the sampler.
NONE = [False] * 3
HEAD = 3200
# What a token is multiplied with before the head: the blocks and the last norm.
BODY = 5 * BLOCK + 64
# The head of a critic has 32 weights and a bias.
CRITIC_BODY = BODY + 33
RUN = counted(job(reward=None, ppo_epochs=2))


def body(lengths: list[int], weights: int = BODY) -> int:
    """FLOPs before the head. In 5 blocks of width 32, a token meets half of its row twice: as keys and as values."""
    return sum(length * (2 * weights + 5 * 4 * 32 * (length // 2)) for length in lengths)


def test_each_real_token_passes_once_and_the_head_sees_responses_alone() -> None:
    found = honest(RUN, PROMPTS, RESPONSES, NONE)
    rollout = body(LENGTHS) + 2 * HEAD * sum(RESPONSES)
    assert found["rollout"] == rollout
    # A reference and a critic. The tokens have passed through the actor in the rollout.
    critic = body(LENGTHS, CRITIC_BODY)
    assert found["score"] == rollout + critic
    # Forward, gradients of activations, gradients of weights; twice over all rows.
    assert found["update"] == pytest.approx(2 * 3 * (rollout + critic))


def test_each_row_that_the_actor_scores_again_counts_again_and_in_scoring_alone() -> None:
    without, some, every = (
        honest(RUN, PROMPTS, RESPONSES, rescored) for rescored in (NONE, [False, True, False], [True] * 3)
    )
    # Only the head of response tokens is needed, as when the reference scores.
    assert some["score"] - without["score"] == body([9]) + 2 * HEAD * 6
    assert every["score"] - without["score"] == without["rollout"]
    assert (every["rollout"], every["update"]) == (without["rollout"], without["update"])


def test_the_kl_over_the_vocabulary_is_another_pass_of_actor_and_reference() -> None:
    exact = honest(counted(job(reward=None, ppo_epochs=2, exact_kl=True)), PROMPTS, RESPONSES, NONE)
    plain = honest(RUN, PROMPTS, RESPONSES, NONE)
    assert exact["score"] - plain["score"] == 2 * plain["rollout"]


def test_padding_changes_the_formula_of_the_predecessors_alone() -> None:
    longer = [PROMPTS[0] + 10, *PROMPTS[1:]]
    assert of_predecessors(RUN, longer, RESPONSES)["score"] == pytest.approx(
        of_predecessors(RUN, PROMPTS, RESPONSES)["score"] * (12 + 10 + 6) / (12 + 6)
    )
    grown = honest(RUN, longer, RESPONSES, NONE)["rollout"] - honest(RUN, PROMPTS, RESPONSES, NONE)["rollout"]
    assert grown == body([12 + 10 + 2]) - body([12 + 2])


def test_the_formula_of_the_predecessors_sends_each_prefix_through_the_model_again() -> None:
    found = of_predecessors(RUN, PROMPTS, RESPONSES)
    # Rows have 12 + 6 tokens with their padding. The prefixes have 12, 13, …, 17 tokens: (12 + 17) * 6 / 2 = 87.
    assert found["rollout"] == 2 * ACTOR * 3 * 87
    assert found["score"] == 2 * 3 * 18 * (2 * ACTOR + CRITIC)
    assert found["update"] == 2 * (2 * 3 * 18 * 3 * (ACTOR + CRITIC))


def test_a_cache_saves_almost_all_that_the_predecessors_count() -> None:
    # Prefixes of 400 to 511 tokens are (400 + 511) * 112 / 2 = 51,016 tokens: 99.6 times the 512 tokens of a row.
    prompts, responses = [400] * 8, [112] * 8
    assert of_predecessors(RUN, prompts, responses)["rollout"] == 2 * ACTOR * 8 * 51_016
    assert honest(RUN, prompts, responses, [False] * 8)["rollout"] == body([512] * 8) + 2 * HEAD * 8 * 112
