"""What `result.json` tells of a run's health."""

from typing import Any

from lightning.pytorch import Trainer

from lightning_rlhf.callbacks.health import Health


def health_record(trainer: Trainer) -> dict[str, Any]:
    """Returns the entries of `result.json`: alarms in the order of their first ring, and which one stopped the run."""
    # `callbacks` is set by the Trainer's connector, which type checkers do not see.
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Health):
            record: dict[str, Any] = {"alarms": list(callback.begun.values())}
            record |= {} if callback.stopped_by is None else {"stopped_by": callback.stopped_by}
            return record | ({"skipped_steps": callback.skipped.total} if callback.skipped.total else {})
    return {}
