"""PPO without text: the example learns with the same mathematics as the modules."""

import ast
import sys
from pathlib import Path
from statistics import fmean

import cartpole
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close


class Balance(nn.Module):
    """A policy that pushes to the side on which the pole will soon be, so that it never falls."""

    def forward(self, observations: Tensor) -> Tensor:
        push = 100 * (observations @ torch.tensor([0.1, 0.3, 1.0, 0.5]))  # position, velocity, angle, its velocity
        return torch.stack([-push, push], dim=-1)


def random_rollout(seed: int, ends: float) -> tuple[cartpole.Steps, Tensor, Tensor]:
    """Draws steps of 3 environments, their values, and the values of the states that they lead to."""
    generator = torch.Generator().manual_seed(seed)
    rewards, values, last_values = torch.randn(3, 3, 40, generator=generator, dtype=torch.float64)
    terminated, truncated = torch.rand(2, 3, 40, generator=generator) < ends
    # Within an episode, the next state is the one that the last action led to.
    next_values = torch.where(terminated | truncated, last_values, values.roll(-1, dims=1))
    next_values[:, -1] = last_values[:, -1]
    nothing = torch.empty(0)
    return cartpole.Steps(nothing, nothing, rewards, nothing, terminated, truncated), values, next_values


def test_the_example_takes_nothing_but_our_mathematics() -> None:
    tree = ast.parse(Path(cartpole.__file__).read_text(encoding="utf-8"))
    plain = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    modules = plain | {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {name for name in modules if name.startswith("lightning_rlhf")}
    assert {name.rpartition(".")[0] for name in ours} == {"lightning_rlhf.ops"}
    assert {name.split(".")[0] for name in modules - ours} - sys.stdlib_module_names == {
        "gymnasium",
        "numpy",
        "torch",
        "tqdm",
    }


@pytest.mark.parametrize("ends", [0.0, 0.1, 0.5])
def test_rows_give_the_advantages_of_a_loop_over_steps(ends: float) -> None:
    rollout, values, next_values = random_rollout(0, ends)
    # This is CleanRL's loop, but after the time limit it uses the value of the last state, not the next episode's or 0.
    expected, following = torch.zeros_like(values), torch.zeros(3, dtype=torch.float64)
    for t in reversed(range(40)):
        goes_on = 1.0 - rollout.terminated[:, t].double()
        same_episode = goes_on * (1.0 - rollout.truncated[:, t].double())
        delta = rollout.rewards[:, t] + 0.99 * next_values[:, t] * goes_on - values[:, t]
        expected[:, t] = following = delta + 0.99 * 0.95 * same_episode * following
    advantages, returns = cartpole.estimate(rollout, values, next_values)
    assert_close(advantages, expected.flatten())
    assert_close(returns, (expected + values).flatten())


def test_an_episode_ends_in_its_own_last_state() -> None:
    poles = cartpole.CartPoles(2, seed=0)
    torch.manual_seed(0)
    fallen = 0
    for _ in range(100):
        step = poles.step(lambda observations: torch.zeros(2, 2))
        out = (step.next_observations[:, [0, 2]].abs() > torch.tensor([2.4, 0.2095])).any(1)
        assert_close(step.terminated, out)
        assert_close(poles.observations[~out], step.next_observations[~out])
        assert (poles.observations[out].abs() <= 0.05).all()  # where episodes begin
        fallen += int(out.sum())
    assert fallen == len(poles.returns) > 2


def test_the_time_limit_is_no_fall() -> None:
    poles = cartpole.CartPoles(2, seed=0)
    steps = [poles.step(Balance()) for _ in range(500)]
    assert poles.returns == [500.0, 500.0]
    assert not any(step.terminated.any() for step in steps)
    assert [step.truncated.all().item() for step in steps] == [False] * 499 + [True]


def test_evaluation_plays_whole_episodes() -> None:
    assert cartpole.evaluate(Balance(), seed=0, num_episodes=3) == 500


def test_ppo_learns_to_keep_the_pole_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # A larger rate lets it learn in seconds. Six seeds went from 20 … 27 steps to 176 … 257, 7 times as many.
    monkeypatch.setattr(cartpole, "LR", 1e-3)
    _, returns = cartpole.train(seed=1, total_steps=10_240)
    assert fmean(returns[-20:]) > 4 * fmean(returns[:50])
