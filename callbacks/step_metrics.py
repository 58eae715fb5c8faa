"""Logs the learning rate of each role and the tokens per second, at every logged step."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_rlhf.distributed.gradient_norms import role_of
from lightning_rlhf.experience import Rollout
from lightning_rlhf.hooks import RLHFCallback, StepNumbers, notify
from lightning_rlhf.modules.stage_module import StageModule, samples
from lightning_rlhf.rollout.dataset import Minibatch

_RATE = "train/lr"


class StepMetrics(RLHFCallback):
    """Logs `train/lr`, and in stages that do not sample `perf/tokens_per_second`, of each step that is logged.

    If there are several roles, `train/lr` is the rate of the first, the actor, and `train/lr_<role>` that of each. PPO
    logs the rates of the last update of an iteration, and `Throughput` its tokens. The processes exchange numbers, and
    numbers leave the GPU, at logged steps only. Evaluations do not count as time.
    """

    def __init__(self) -> None:
        """Starts all counts at zero."""
        self.rates: dict[str, float] = {}
        self.step = 0
        self._reset()

    def _reset(self) -> None:
        self.start = time.perf_counter()
        self.steps = 0
        self.tokens: Tensor | int = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock; a resumed run does not start at step 0."""
        self.step = trainer.global_step
        self._reset()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock: what happened between two epochs, such as a checkpoint, is not part of a step."""
        self._reset()

    def on_rollout_end(self, trainer: Trainer, module: LightningModule, rollout: Rollout) -> None:
        """Starts the clock: a rollout is not part of an update."""
        self._reset()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        self.evaluation_start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes on with the clock."""
        self.start += time.perf_counter() - self.evaluation_start

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Counts the tokens of a micro-batch."""
        mask = batch.experience.sequences.attention_mask if isinstance(batch, Minibatch) else batch.attention_mask
        self.tokens = self.tokens + mask.sum()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Reads the learning rates with which the step is taken; afterwards they are those of the next step."""
        self.rates = {}
        for group in optimizer.param_groups:
            # The groups of a role differ in weight decay only.
            self.rates.setdefault(role_of(group), float(group["lr"]))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: object, batch_idx: int
    ) -> None:
        """Logs a step."""
        if trainer.global_step == self.step:
            return
        self.step, self.steps = trainer.global_step, self.steps + 1
        if trainer._logger_connector.should_update_logs:
            numbers = self._numbers(trainer, pl_module)
            if not samples(pl_module):
                rate = numbers.tokens_per_second
                pl_module.log_dict(named(self.rates) | {"perf/tokens_per_second": rate}, on_step=True, on_epoch=False)
            notify(trainer, "on_step_numbers", numbers)
            self._reset()

    def _numbers(self, trainer: Trainer, module: LightningModule) -> StepNumbers:
        loss = module.totals.get("loss") if isinstance(module, StageModule) else None
        tokens = trainer.strategy.reduce(torch.as_tensor(self.tokens).float(), reduce_op="sum")
        seconds = time.perf_counter() - self.start
        return StepNumbers(self.steps, loss, self.rates, self.steps / seconds, tokens / seconds)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the learning rates of an iteration of PPO."""
        if samples(pl_module):
            pl_module.log_dict(named(self.rates))

    def state_dict(self) -> dict[str, object]:
        """Returns the learning rates of the last step; an iteration may resume after its last step."""
        return {"rates": self.rates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the learning rates."""
        self.rates = state_dict["rates"]


def named(rates: Mapping[str, float]) -> dict[str, float]:
    """Returns the learning rates by the names under which they are logged."""
    if not rates:
        return {}
    return {_RATE: next(iter(rates.values()))} | (
        {f"{_RATE}_{role}": rate for role, rate in rates.items()} if len(rates) > 1 else {}
    )
