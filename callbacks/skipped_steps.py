"""Skips steps whose gradient is not finite, and keeps the batch for inspection."""

import logging
from collections.abc import Mapping
from math import isfinite
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from lightning_rlhf.errors import UserError

log = logging.getLogger(__name__)


class SkippedSteps:
    """Counts the steps that were skipped.

    Attributes:
        total: How many steps of the run were skipped.
        in_a_row: How many of them were the latest ones.
        in_epoch: Whether one of them was in this epoch.
        where: The end of a message about a step that is not skipped: where its batch is.
    """

    def __init__(self, limit: int) -> None:
        """Starts without skipped steps.

        Args:
            limit: Number of steps in a row that may be skipped; the run ends with the next one.

        Raises:
            UserError: If the limit is negative.
        """
        if limit < 0:
            raise UserError(f"health: skip_steps={limit}: must not be negative")
        self.limit, self.total, self.in_a_row = limit, 0, 0
        self.in_epoch, self.where = False, ""
        self.parts: list[object] = []

    def begin(self, part: object) -> None:
        """Keeps a micro-batch of the next step."""
        self.parts.append(part)

    def end(self) -> None:
        """Forgets the micro-batches of a step that was taken or skipped."""
        self.parts = []

    def skips(self, trainer: Trainer, optimizer: torch.optim.Optimizer | None, norms: Mapping[str, float]) -> bool:
        """Makes the optimizer leave all weights as they are if the gradient is not finite, and says so.

        Args:
            trainer: The trainer.
            optimizer: The optimizer before its step; None if the step has been taken.
            norms: Norms of the gradient, by name. They are the same on all ranks, which call this together.

        Returns:
            Whether the step is skipped. It is not if the gradient is finite, the step has been taken, or too many steps
            in a row were skipped.
        """
        if all(map(isfinite, norms.values())):
            self.in_a_row = 0
            return False
        self.in_a_row += 1
        file = self._save(trainer)
        if optimizer is None or self.in_a_row > self.limit:
            self.where = f"; the batch of this step is in {file}, a file for each rank"
            return False
        self.total, self.in_epoch = self.total + 1, True
        for group in optimizer.param_groups:
            for weight in group["params"]:
                # Optimizers pass over weights without a gradient; one of zeros would still move them by momentum.
                weight.grad = None
        if trainer.is_global_zero:
            shown = ", ".join(f"{name} is {norm}" for name, norm in norms.items())
            log.warning(
                "step %d is skipped, because its gradient is not finite: %s; the run ends after %d such steps in a row "
                "(callbacks.health.skip_steps), and this is number %d; the batch is in %s",
                *(trainer.global_step + 1, shown, self.limit, self.in_a_row, file),
            )
        return True

    def _save(self, trainer: Trainer) -> Path:
        """Writes the batch of this rank, in place of that of an earlier step, so that it can be read without pickle."""
        file = Path(trainer.default_root_dir) / "not_finite" / f"rank_{trainer.global_rank}.pt"
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"step": trainer.global_step + 1, "parts": _plain(self.parts)}, file)
        return file


def _plain(value: object) -> object:
    """Named tuples become dicts by the names of their fields, and tensors are on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | None) else repr(value)
