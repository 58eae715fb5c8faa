"""Advantage estimators: by hand, compared with their definitions on lists, and what each requires."""

from statistics import mean, stdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from lightning_rlhf.ops.advantages import ESTIMATORS, Advantages, Trajectories, estimator
from lightning_rlhf.registry import arguments

NAN = float("nan")
# Two prompts with three responses each and garbage under the padding; the totals are 3, 5, 7 and 1, 1, 1.
MASK = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 0], [1, 1], [1, 1]]).bool()
REWARDS = torch.tensor([[1.0, 2.0], [5.0, NAN], [3.0, 4.0], [1.0, NAN], [-1.0, 2.0], [0.5, 0.5]])
TRAJECTORIES = Trajectories(
    REWARDS,
    MASK,
    # What an estimator of one's own may read; those here read the rewards, which contain all scores.
    scores=torch.full((6,), NAN),
    token_scores=torch.full((6, 2), NAN),
    group_size=3,
    values=torch.tensor([[1.0, 4.0], [2.0, NAN], [0.0, 2.0], [1.0, NAN], [0.0, 0.0], [2.0, 0.0]]),
    greedy_scores=torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0, 2.0]),
)


def estimate(name: str, trajectories: Trajectories, gamma: float, gae_lambda: float) -> Advantages:
    """Returns the result of an estimator, with those of the settings that it declares."""
    function = ESTIMATORS[name].estimate
    return function(trajectories, **arguments(function, {"gamma": gamma, "gae_lambda": gae_lambda}))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # gamma = lambda = 1/2. Row 0: delta_1 = 2 - 4, delta_0 = 1 + 4/2 - 1 = 2, less 2/4. Row 1: 5 - 2.
        # Row 2: 4 - 2, 3 + 2/2 - 0 + 2/4. Row 4: 2, -1 + 2/4. Row 5: 0.5, 0.5 - 2 + 0.5/4.
        ("gae", [[1.5, -2.0], [3.0, 0.0], [4.5, 2.0], [0.0, 0.0], [-0.5, 2.0], [-1.375, 0.5]]),
        # Totals minus the mean 5, over the sample deviation sqrt((4 + 0 + 4) / 2) = 2; equal totals have advantage 0.
        ("grpo", [[-2 / 2.0001] * 2, [0.0, 0.0], [2 / 2.0001] * 2, [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]),
        ("grpo_no_std", [[-2.0, -2.0], [0.0, 0.0], [2.0, 2.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]),
        # 3 - (5 + 7) / 2, 5 - (3 + 7) / 2, 7 - (3 + 5) / 2.
        ("rloo", [[-3.0, -3.0], [0.0, 0.0], [3.0, 3.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]),
        # The last reward; before it, the first reward plus half of the last.
        ("reinforce_pp", [[2.0, 2.0], [5.0, 0.0], [5.0, 4.0], [1.0, 0.0], [0.0, 2.0], [0.75, 0.5]]),
        # The same minus 5 and 1.
        ("reinforce_pp_baseline", [[-3.0, -3.0], [0.0, 0.0], [0.0, -1.0], [0.0, 0.0], [-1.0, 1.0], [-0.25, -0.5]]),
        # The same minus 1 and 2.
        ("remax", [[1.0, 1.0], [4.0, 0.0], [4.0, 3.0], [-1.0, 0.0], [-2.0, 0.0], [-1.25, -1.5]]),
    ],
)
def test_each_estimator_by_hand(name: str, expected: list[list[float]]) -> None:
    advantages, returns = estimate(name, TRAJECTORIES, 0.5, 0.5)
    assert_close(advantages, torch.tensor(expected))
    if ESTIMATORS[name].critic:
        assert returns is not None
        assert TRAJECTORIES.values is not None
        assert_close(returns, torch.where(MASK, torch.tensor(expected) + TRAJECTORIES.values, 0))
    else:
        assert returns is None


Rows = list[list[float]]


def to_go(rewards: list[float], gamma: float) -> list[float]:
    return [sum(gamma**n * reward for n, reward in enumerate(rewards[t:])) for t in range(len(rewards))]


def by_definition(
    name: str, rewards: Rows, values: Rows, greedy: list[float], size: int, gamma: float, gae_lambda: float
) -> Rows:
    """Computes the advantages of valid tokens row by row, with the sums and means of the papers."""
    totals = [sum(row) for row in rewards]
    advantages = []
    for row, tokens in enumerate(rewards):
        start = row // size * size
        group = totals[start : start + size]
        others = [totals[i] for i in range(start, start + size) if i != row]
        if name == "gae":
            after = [*values[row], 0.0][1:]
            deltas = [r + gamma * n - v for r, n, v in zip(tokens, after, values[row], strict=True)]
            advantages.append(to_go(deltas, gamma * gae_lambda))
        elif name in ("reinforce_pp", "reinforce_pp_baseline", "remax"):
            baseline = {"reinforce_pp": 0.0, "reinforce_pp_baseline": mean(group), "remax": greedy[row]}[name]
            advantages.append([value - baseline for value in to_go(tokens, gamma)])
        else:
            baseline = mean(others) if name == "rloo" else mean(group)
            scale = stdev(group) + 1e-4 if name == "grpo" else 1.0
            advantages.append([(totals[row] - baseline) / scale] * len(tokens))
    return advantages


@pytest.mark.parametrize("name", ESTIMATORS)
@given(
    seed=st.integers(0, 999),
    size=st.integers(2, 4),
    num_groups=st.integers(1, 3),
    gamma=st.floats(0.1, 1.0),
    gae_lambda=st.floats(0.1, 1.0),
)
def test_each_estimator_is_its_definition_on_the_tokens_that_count(
    name: str, seed: int, size: int, num_groups: int, gamma: float, gae_lambda: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, num_groups * size, 6, generator=generator).double()
    greedy = torch.randn(num_groups, generator=generator).double().repeat_interleave(size)
    # Holes between tokens are left by the output of a tool; the definition does not see them at all.
    mask = torch.rand(num_groups * size, 6, generator=generator) < 0.6

    def kept(tensor: Tensor) -> Rows:
        return [row[counts].tolist() for row, counts in zip(tensor, mask, strict=True)]

    trajectories = Trajectories(
        torch.where(mask, rewards, NAN),
        mask,
        scores=torch.full((num_groups * size,), NAN),
        token_scores=torch.full(mask.shape, NAN),
        group_size=size,
        values=torch.where(mask, values, NAN),
        greedy_scores=greedy,
    )
    advantages, _ = estimate(name, trajectories, gamma, gae_lambda)
    expected = by_definition(name, kept(rewards), kept(values), greedy.tolist(), size, gamma, gae_lambda)
    assert not advantages[~mask].any()
    assert_close(advantages[mask], torch.tensor([value for row in expected for value in row], dtype=torch.float64))


def test_each_estimator_says_what_it_needs() -> None:
    needs: dict[str, set[str]] = {
        name: {field for field in ("critic", "group", "greedy", "whiten") if getattr(entry, field)}
        for name, entry in ESTIMATORS.items()
    }
    assert needs == {
        "gae": {"critic", "whiten"},
        "grpo": {"group"},
        "grpo_no_std": {"group"},
        "rloo": {"group"},
        "reinforce_pp": {"whiten"},
        "reinforce_pp_baseline": {"group", "whiten"},
        "remax": {"greedy"},
    }


def test_a_new_estimator_is_one_decorated_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ESTIMATORS, "length", ESTIMATORS["gae"])

    @estimator("length", group=True, greedy=True)
    def length(trajectories: Trajectories) -> Advantages:
        return Advantages(trajectories.mask.float())

    entry = ESTIMATORS["length"]
    assert entry.estimate is length
    assert (entry.critic, entry.group, entry.greedy, entry.whiten) == (False, True, True, False)
    assert_close(estimate("length", TRAJECTORIES, 1.0, 1.0).advantages, MASK.float())
