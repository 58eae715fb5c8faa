"""Writes a plain Hugging Face folder at the end of a stage."""

from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from lightning_rlhf.distributed.phases import full_state_dict, named_weights, sharding
from lightning_rlhf.models.adapters.active import adapter_layers
from lightning_rlhf.models.adapters.merging import is_quantized
from lightning_rlhf.models.export import export_model, rebuilt


class Export(Callback):
    """Writes `model/` into the run folder: weights, configuration, tokenizer with chat template, manifest."""

    def __init__(self, stage: str) -> None:
        """Stores the content of the manifest.

        Args:
            stage: Name of the stage.
        """
        self.stage = stage

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Exports the models, unless an error has stopped training."""
        write_exports(trainer, pl_module, {"stage": self.stage})


def write_exports(trainer: Trainer, module: Any, manifest: dict[str, object], ending: str = "") -> None:
    """Exports the current weights of a module into the run folder; all processes call this together.

    Args:
        trainer: Knows the strategy and the folder.
        module: One of the modules of this package.
        manifest: The content of the manifest.
        ending: What follows `model` in the name of the folder.
    """
    write = partial(export_model, renderer=module.renderer, manifest=manifest)
    for name, model in module.export_nets().items():
        folder = Path(trainer.default_root_dir) / f"{name}{ending}"
        # Every process holds a quantized model as a whole.
        if not sharding(trainer) or is_quantized(model):
            if trainer.is_global_zero:
                write(model, folder=folder)
        elif adapter_layers(model):
            # Weights and adapter are merged layer by layer, which needs a whole model.
            weights = full_state_dict(trainer, model)
            if trainer.is_global_zero:
                write(rebuilt(model, weights), folder=folder)
        else:
            # All processes contribute their parts, and the first one writes.
            with named_weights(trainer, model) as stream:
                if trainer.is_global_zero:
                    write(model, folder=folder, weights=stream)
