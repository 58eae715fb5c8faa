"""Writes a plain Hugging Face folder at the end of a stage."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lightning.pytorch import Callback, Trainer

from lightning_rlhf.callbacks.run_facts import row_counts
from lightning_rlhf.distributed.phases import full_state_dict, named_weights, sharding
from lightning_rlhf.models.adapters.active import adapter_layers
from lightning_rlhf.models.adapters.merging import is_quantized
from lightning_rlhf.models.export import export_model
from lightning_rlhf.models.rebuilding import rebuilt
from lightning_rlhf.models.training_record import TrainingRecord


class Export(Callback):
    """Writes `model/` into the run folder: weights, configuration, tokenizer with chat template, manifest and card."""

    def __init__(self, stage: str, sampling: Mapping[str, object] | None = None) -> None:
        """Stores the content of the manifest.

        Args:
            stage: Name of the stage.
            sampling: The sampling distribution that the export names; see `export_model`.
        """
        self.stage, self.sampling = stage, sampling

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Exports the models, unless an error has stopped training."""
        write_exports(trainer, pl_module, self.stage, self.sampling)


def write_exports(
    trainer: Trainer,
    module: Any,
    stage: str,
    sampling: Mapping[str, object] | None,
    *,
    ending: str = "",
    facts: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Exports the current weights of a module into the run folder; all processes call this together.

    Args:
        trainer: The trainer of the module.
        module: One of the modules of this package.
        stage: Name of the stage.
        sampling: The sampling distribution that the export names; see `export_model`.
        ending: What follows `model` in the name of the folder.
        facts: Further entries of the manifest.
    """
    manifest: dict[str, object] = {"stage": stage, **facts}
    if trainer.is_global_zero:
        manifest["training"] = training_so_far(trainer, stage)
    write = partial(export_model, renderer=module.renderer, manifest=manifest, sampling=sampling)
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


def training_so_far(trainer: Trainer, stage: str) -> list[TrainingRecord]:
    """Returns the records of the stages behind the model that a trainer has trained, for its card.

    Args:
        trainer: The trainer, whose loggers have written the metrics of the stage.
        stage: Name of the stage.
    """
    # Reading a run imports matplotlib, which takes its time.
    from lightning_rlhf.report.training import training_records

    for logger in trainer.loggers:
        logger.save()
    return training_records(Path(trainer.default_root_dir), stage, row_counts(trainer))
