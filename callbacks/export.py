"""Leaves a plain Hugging Face folder at the end of a stage."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from lightning_rlhf.distributed.phases import full_state_dict, sharding
from lightning_rlhf.models.adapters.merging import is_quantized
from lightning_rlhf.models.export import export_model, rebuilt


class Export(Callback):
    """Writes `model/` into the run folder: weights, configuration, tokenizer with chat template, manifest."""

    def __init__(self, stage: str) -> None:
        """Takes what the manifest says.

        Args:
            stage: Name of the stage.
        """
        self.stage = stage

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Exports, unless training was stopped by an error."""
        for name, net in pl_module.export_nets().items():
            # All ranks give their parts; the first one writes.
            # Quantized nets are whole in each process, and cannot be built of their weights.
            weights = full_state_dict(trainer, net) if sharding(trainer) and not is_quantized(net) else None
            if trainer.is_global_zero:
                plain = net if weights is None else rebuilt(net, weights)
                folder = Path(trainer.default_root_dir) / name
                export_model(plain, pl_module.renderer, folder, {"stage": self.stage})
