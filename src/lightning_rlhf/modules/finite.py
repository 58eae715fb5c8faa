"""Stops a run whose numbers are no longer finite, on all ranks together, before they cause another error."""

from collections.abc import Mapping
from math import isfinite
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_rlhf.errors import NotFiniteError
from lightning_rlhf.strategies.checkpoint_weights import read_weights


def check_finite(trainer: Trainer, numbers: Mapping[str, Tensor | float], more: str = "") -> None:
    """Stops the run if a number is NaN or infinite.

    Args:
        trainer: Knows the progress and the checkpoints of the run.
        numbers: Numbers by a name for people. They must be the same on every rank, or only some ranks would stop.
        more: What the message says at its end.

    Raises:
        NotFiniteError: If a number is not finite. The message names the iteration or epoch, and the checkpoint from
            which to continue.
    """
    broken = [name for name, values in numbers.items() if not _finite(values)]
    if not broken:
        return
    unit = "iteration" if hasattr(trainer.lightning_module, "rollout_dataset") else "epoch"
    when = f"{unit} {trainer.current_epoch + 1}, step {trainer.global_step}"
    checkpoint = trainer.strategy.broadcast(last_finite_checkpoint(trainer) if trainer.is_global_zero else None)
    back = "there is no checkpoint with finite weights: start again"
    if checkpoint is not None:
        back = f"the last checkpoint with finite weights is {checkpoint}: continue from it"
    raise NotFiniteError(
        f"{'before training' if trainer.sanity_checking else when}: not finite: {', '.join(broken)}. Weights are lost, "
        f"or numbers are too large for the precision; {back}, with a lower learning rate or trainer.precision=32-true"
        f"{more}"
    )


def _finite(values: Tensor | float) -> bool:
    # A number that Python has already read does not become a tensor, which would be read once more.
    return bool(values.isfinite().all()) if isinstance(values, Tensor) else isfinite(values)


def last_finite_checkpoint(trainer: Trainer) -> str | None:
    """Finds the newest checkpoint with finite weights, among those of the run and the one that the run started from."""
    folders = {callback.dirpath for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)}
    # The files are listed, because a callback does not remember all of them: it may also write `last.ckpt`, and it may
    # be configured to keep only the newest.
    saved = {path for folder in folders if folder for path in Path(folder).glob("*.ckpt")}
    newest_first = sorted(saved, key=lambda path: path.stat().st_mtime, reverse=True)
    started_from = [Path(trainer.ckpt_path)] if trainer.ckpt_path else []
    return next((str(path) for path in [*newest_first, *started_from] if _has_finite_weights(path)), None)


def _has_finite_weights(checkpoint: Path) -> bool:
    try:
        return all(bool(weight.isfinite().all()) for weight in read_weights(checkpoint).values())
    # Whatever is wrong with a checkpoint, for example that an unknown strategy wrote it, it cannot be recommended. The
    # error to report is the one about the numbers.
    except Exception:
        return False
