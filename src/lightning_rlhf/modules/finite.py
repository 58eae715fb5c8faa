"""Ends a run whose numbers are no longer finite: on all ranks together, before something else fails because of them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_rlhf.errors import UserError
from lightning_rlhf.strategies.checkpoint_weights import read_weights


def check_finite(trainer: Trainer, numbers: Mapping[str, Tensor | float]) -> None:
    """Ends the run if a number is NaN or infinite.

    Args:
        trainer: Knows how far the run has come, and its checkpoints.
        numbers: By what they are. They must be the same on every rank, or only some of the ranks would end.

    Raises:
        UserError: If one is not finite; names the iteration or epoch, and the checkpoint to go back to.
    """
    broken = [name for name, values in numbers.items() if not torch.as_tensor(values).isfinite().all()]
    if not broken:
        return
    unit = "iteration" if hasattr(trainer.lightning_module, "rollout_dataset") else "epoch"
    when = f"{unit} {trainer.current_epoch + 1}, step {trainer.global_step}"
    checkpoint = trainer.strategy.broadcast(last_finite_checkpoint(trainer) if trainer.is_global_zero else None)
    back = "there is no checkpoint with finite weights: start again"
    if checkpoint is not None:
        back = f"the last checkpoint with finite weights is {checkpoint}: go on from it"
    raise UserError(
        f"{'before training' if trainer.sanity_checking else when}: not finite: {', '.join(broken)}. Weights are lost, "
        f"or numbers are too large for the precision; {back}, with a lower learning rate or trainer.precision=32-true"
    )


def last_finite_checkpoint(trainer: Trainer) -> str | None:
    """The newest checkpoint of the run, or else the one that it started from, of which all weights are finite."""
    folders = {callback.dirpath for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)}
    # Not those that a callback remembers: it may write `last.ckpt` besides, or be asked for none but the newest.
    saved = {path for folder in folders if folder for path in Path(folder).glob("*.ckpt")}
    newest_first = sorted(saved, key=lambda path: path.stat().st_mtime, reverse=True)
    started_from = [Path(trainer.ckpt_path)] if trainer.ckpt_path else []
    return next((str(path) for path in [*newest_first, *started_from] if _has_finite_weights(path)), None)


def _has_finite_weights(checkpoint: Path) -> bool:
    try:
        return all(bool(weight.isfinite().all()) for weight in read_weights(checkpoint).values())
    # Whatever is wrong with a checkpoint, such as a strategy of somebody else: it is not one to recommend, and the run
    # has something else to say.
    except Exception:
        return False
