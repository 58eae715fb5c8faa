"""Runs whose weights are lost end with one message, whatever detects it first."""

from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from support import trainer
from torch import nn

from lightning_rlhf.errors import UserError
from lightning_rlhf.hooks import RLHFCallback


@torch.no_grad()
def lose(net: nn.Module) -> None:
    """Makes all weights NaN."""
    for weight in net.parameters():
        weight.fill_(nan)


class LoseAt(RLHFCallback):
    """Makes a model of PPO NaN when the rollout of an iteration begins."""

    def __init__(self, role: str, iteration: int) -> None:
        self.role, self.iteration = role, iteration

    def on_rollout_start(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.current_epoch == self.iteration:
            lose(getattr(module.roles, self.role))


class LoseAtTheEnd(pl.Callback):
    """Makes all models NaN when an epoch ends, before its checkpoint is written."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            lose(module)


@pytest.mark.parametrize(
    ("role", "found"),
    [
        ("actor", "log-probs of the actor that samples, log-probs of the actor"),
        ("reference", "log-probs of the reference"),
        ("critic", "values of the critic"),
        ("reward", "scores"),
    ],
)
def test_a_rollout_by_lost_weights_names_the_iteration_and_the_last_good_checkpoint(
    role: str, found: str, parts: Callable, tmp_path: Path
) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "kept", filename="last")
    fitted = trainer(tmp_path, LoseAt(role, 2), checkpoint, max_epochs=3, enable_checkpointing=True)
    with pytest.raises(UserError) as caught:
        fitted.fit(*parts("ppo"))
    message = str(caught.value)
    # Two iterations of four updates have been made.
    assert message.startswith(f"iteration 3, step 8: not finite: {found}. Weights are lost")
    assert f"the last checkpoint with finite weights is {tmp_path}/kept/last.ckpt: continue from it" in message


@pytest.mark.parametrize(
    ("lost_at", "back"),
    [
        (0, "there is no checkpoint with finite weights: start again"),
        (1, "the last checkpoint with finite weights is .*/kept/epoch=0.ckpt: continue from it"),
    ],
)
def test_a_checkpoint_of_lost_weights_is_not_recommended(
    lost_at: int, back: str, parts: Callable, tmp_path: Path
) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "kept", filename="{epoch}", save_top_k=-1, every_n_epochs=1)
    fitted = trainer(tmp_path, LoseAtTheEnd(lost_at), checkpoint, max_epochs=3, enable_checkpointing=True)
    with pytest.raises(UserError, match=back):
        fitted.fit(*parts("ppo"))
    assert (tmp_path / "kept" / f"epoch={lost_at}.ckpt").exists()


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo"])
def test_held_out_data_show_lost_weights(stage: str, parts: Callable, tmp_path: Path) -> None:
    class Lose(pl.Callback):
        def on_validation_start(self, trainer: pl.Trainer, module: Any) -> None:
            lose(module)

    unit = "iteration" if stage == "ppo" else "epoch"
    with pytest.raises(UserError, match=rf"^{unit} 1, step \d+: not finite: val/"):
        trainer(tmp_path, Lose(), limit_val_batches=1).fit(*parts(stage))


def test_weights_that_are_lost_from_the_start_are_found_before_training(parts: Callable, tmp_path: Path) -> None:
    module, data = parts("ppo")
    lose(module.builders["actor"])
    fitted = trainer(tmp_path, limit_val_batches=1, num_sanity_val_steps=1)
    with pytest.raises(UserError, match="^before training: not finite: val/kl"):
        fitted.fit(module, data)
