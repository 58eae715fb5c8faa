"""Keeps a moving average of the trained weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lightning_rlhf.callbacks.export import training_so_far
from lightning_rlhf.distributed.phases import shards_parameters
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.export import export_model
from lightning_rlhf.models.scalar import ScalarModel


class EMA(Callback):
    """Averages the weights of the exported model, and writes the average as `model_ema/` beside `model/`.

    After each optimizer step, average = decay · average + (1 - decay) · weight, starting from the weights before the
    first step. Frozen weights need no average. The average is kept in fp32, on the device of the weights. A reward
    model has none, because its scale is set after training. Source of the decay: Ouyang et al. (2022), who average the
    actor.
    """

    def __init__(self, stage: str, decay: float = 0.992, sampling: Mapping[str, object] | None = None) -> None:
        """Stores how slowly the average moves.

        Args:
            stage: Name of the stage, for the manifest.
            decay: Share of the old average in the new one; the average reaches back over about 1 / (1 - decay) steps.
            sampling: The sampling distribution that the export names; see `export_model`.

        Raises:
            UserError: If `decay` is not in [0, 1).
        """
        if not 0 <= decay < 1:
            raise UserError(f"EMA: decay={decay} must lie in [0, 1)")
        self.stage, self.decay, self.sampling = stage, decay, sampling
        self.average: dict[str, Tensor] = {}
        self.step = 0

    def on_train_start(self, trainer: Trainer, pl_module: object) -> None:
        """Starts from the current weights, or from the average of a checkpoint.

        Raises:
            UserError: If no process holds whole weights.
        """
        if shards_parameters(trainer):
            raise UserError(
                "callbacks=ema: with this strategy no process holds whole weights to average: leave it out, or take "
                "one that shards at most gradients and optimizer, such as strategy=ddp (docs/strategies.md has others)"
            )
        self.average = {
            name: self.average.get(name, weight).to(weight.device, torch.float32, copy=True)
            for name, weight in _trained(pl_module).items()
        }
        self.step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: object, *_: object) -> None:
        """Updates the average if the optimizer has taken a step, which it does not after each accumulated part."""
        if trainer.global_step == self.step or not self.average:
            return
        self.step = trainer.global_step
        weights = [weight.float() for weight in _trained(pl_module).values()]
        get_ema_multi_avg_fn(self.decay)(list(self.average.values()), weights, None)

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Exports the average, unless an error has stopped training; the model keeps its own weights."""
        if not trainer.is_global_zero or not self.average:
            return
        weights = _trained(pl_module)
        own = {name: weight.clone() for name, weight in weights.items()}
        training = training_so_far(trainer, self.stage)
        manifest = {"stage": self.stage, "ema_decay": self.decay, "training": training}
        _fill(weights, self.average)
        try:
            folder = Path(trainer.default_root_dir) / "model_ema"
            export_model(pl_module.export_nets()["model"], pl_module.renderer, folder, manifest, sampling=self.sampling)
        finally:
            _fill(weights, own)

    def state_dict(self) -> dict[str, object]:
        """Returns the average."""
        return {"average": self.average}

    def load_state_dict(self, state_dict: dict[str, dict[str, Tensor]]) -> None:
        """Restores the average from a checkpoint."""
        self.average = state_dict["average"]


def _trained(module: Any) -> dict[str, Tensor]:
    """Returns the trained weights of the exported model, or nothing for a reward model."""
    net: nn.Module = module.export_nets()["model"]
    if isinstance(net, ScalarModel):
        return {}
    return {name: weight.detach() for name, weight in net.named_parameters() if weight.requires_grad}


def _fill(weights: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, weight in weights.items():
        weight.copy_(values[name])
