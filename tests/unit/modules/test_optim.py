"""The optimizer, its groups and its schedule."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lightning_rlhf.errors import UserError
from lightning_rlhf.modules.optim import Optim, configure


def configured(steps: int = 10, **settings: Any) -> tuple[torch.optim.Optimizer, Any]:
    module: Any = SimpleNamespace(trainer=SimpleNamespace(estimated_stepping_batches=steps, strategy=None))
    actor, critic = (nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)) for _ in range(2))
    actor[0].bias.requires_grad_(False)
    made: Any = configure(module, Optim(**settings), {"actor": (actor, 1.0), "critic": (critic, 2.0)})
    assert made["lr_scheduler"]["interval"] == "step"
    return made["optimizer"], made["lr_scheduler"]["scheduler"]


def test_one_optimizer_steps_all_nets_each_with_its_learning_rate() -> None:
    optimizer, _ = configured()
    groups = {group["name"]: (group["lr"], len(group["params"])) for group in optimizer.param_groups}
    # The groups contain the matrix of each, bias and norm of the critic, and a norm of the actor, whose bias is frozen.
    assert groups == {"actor": (1.0, 1), "actor_no_decay": (1.0, 2), "critic": (2.0, 1), "critic_no_decay": (2.0, 3)}


def test_gradients_are_freed_after_a_step_where_a_process_holds_them_whole() -> None:
    optimizer, _ = configured()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    before = [weight.clone() for weight in weights]
    optimizer.step()
    assert all(weight.grad is None for weight in weights)
    assert not any(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


def test_only_matrices_decay() -> None:
    optimizer, _ = configured(weight_decay=0.1)
    for group in optimizer.param_groups:
        assert group["weight_decay"] == (0.0 if group["name"].endswith("_no_decay") else 0.1)
        assert {parameter.ndim for parameter in group["params"]} == ({1} if group["weight_decay"] == 0 else {2})


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        # Shares of the learning rate in steps 1 to 4 and after the last step.
        ("constant", 0.0, [1, 1, 1, 1, 1]),
        ("linear", 0.0, [1, 3 / 4, 2 / 4, 1 / 4, 0]),
        # (1 + cos(pi t / 4)) / 2
        ("cosine", 0.0, [1, 0.853553, 0.5, 0.146447, 0]),
        ("linear", 0.5, [0, 1 / 2, 1, 1 / 2, 0]),
    ],
)
def test_the_schedule_ends_with_the_last_step(schedule: str, warmup: float, expected: list[float]) -> None:
    optimizer, scheduler = configured(steps=4, schedule=schedule, warmup=warmup)
    rates = []
    for _ in expected:
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    for shares, share in zip(rates, expected, strict=True):
        assert shares == pytest.approx([share, share, 2 * share, 2 * share], abs=1e-6)


def test_impossible_settings_are_named_all_at_once() -> None:
    with pytest.raises(UserError) as caught:
        Optim(weight_decay=-1.0, warmup=1.0)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["weight_decay=-1.0", "warmup=1.0"]
