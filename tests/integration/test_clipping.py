"""The effect of clipping gradient norms on a step of PPO."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from support import trainer
from torch import Tensor

from lightning_rlhf.callbacks import Health
from lightning_rlhf.errors import UserError
from lightning_rlhf.modules.ppo_loss import PPOLoss
from lightning_rlhf.rollout.credit import Credit

BOUND = 0.1


class Norms(pl.Callback):
    """Records the norms of actor and critic before clipping, and as the optimizer gets them, element by element."""

    def __init__(self) -> None:
        self.before: list[dict[str, float]] = []
        self.after: list[dict[str, float]] = []

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        clip = module.configure_gradient_clipping

        def watched(*arguments: Any, **settings: Any) -> None:
            clip(*arguments, **settings)
            self.after.append(norms(module))

        # Lightning clips inside the optimizer's step, where no later hook exists.
        module.configure_gradient_clipping = watched

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: Any, optimizer: Any) -> None:
        self.before.append(norms(module))


def norms(module: Any) -> dict[str, float]:
    squares = {
        role: sum(float(weight.grad.double().square().sum()) for weight in net.parameters() if weight.grad is not None)
        for role, net in module.roles.trainable().items()
    }
    return {role: square**0.5 for role, square in squares.items()}


def fitted(parts: Callable, folder: Path, *callbacks: pl.Callback, **settings: Any) -> dict[str, Tensor]:
    # The critic is so steep that its gradient dominates the joint norm.
    module, data = parts("ppo", **{"loss": PPOLoss(vf_coef=100.0)} | settings)
    trainer(folder, *callbacks, gradient_clip_val=BOUND).fit(module, data)
    return module.state_dict()


def test_a_steep_critic_does_not_shrink_the_step_of_the_actor(parts: Callable, tmp_path: Path) -> None:
    seen, health = Norms(), Health()
    fitted(parts, tmp_path, seen, health)
    assert len(seen.before) == len(seen.after) == 4
    assert min(norm["critic"] for norm in seen.before) > 10 * BOUND
    for before, after in zip(seen.before, seen.after, strict=True):
        expected = {role: min(norm, BOUND) for role, norm in before.items()}
        assert after == pytest.approx(expected, rel=1e-4)
    for role in ("actor", "critic"):
        expected_norms = [norm[role] for norm in seen.before]
        assert health.history[f"train/grad_norm_{role}"] == pytest.approx(expected_norms, rel=1e-5)


def test_clipped_together_actor_and_critic_shrink_by_one_factor(parts: Callable, tmp_path: Path) -> None:
    seen = Norms()
    fitted(parts, tmp_path, seen, clip_gradients_by="all")
    for before, after in zip(seen.before, seen.after, strict=True):
        # The joint norm follows from Pythagoras.
        both = (before["actor"] ** 2 + before["critic"] ** 2) ** 0.5
        assert after == pytest.approx({role: norm * BOUND / both for role, norm in before.items()}, rel=1e-4)


def test_where_there_is_no_critic_nothing_changes(parts: Callable, tmp_path: Path) -> None:
    health = Health()
    credit = Credit(advantage="rloo", num_samples_per_prompt=4)
    each, both = (
        fitted(parts, tmp_path / by, health, credit=credit, critic=None, clip_gradients_by=by) for by in ("role", "all")
    )
    assert all(torch.equal(weight, both[name]) for name, weight in each.items())
    assert [name for name in health.history if "grad_norm" in name] == ["train/grad_norm"]


def test_another_way_to_clip_is_refused(parts: Callable) -> None:
    with pytest.raises(UserError, match="clip_gradients_by=critic: must be role or all"):
        parts("ppo", clip_gradients_by="critic")
