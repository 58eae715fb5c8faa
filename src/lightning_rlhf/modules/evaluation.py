"""Logs what a stage measures on held-out data, and keeps the state before training to compare with."""

from typing import Any

from lightning.pytorch import LightningModule

from lightning_rlhf.hooks import notify
from lightning_rlhf.modules.finite import check_finite
from lightning_rlhf.rollout.evaluate import HeldOutAnswers, summarize

_KEY = "answers_before"


def log_evaluation(module: LightningModule, answers: HeldOutAnswers, metrics: dict[str, float]) -> None:
    """Logs the metrics of a validation pass, and of its answers to held-out prompts if there are any.

    Lightning's sanity check is the state before training: it is logged as epoch -1, and its answers are what later
    ones are compared with.

    Args:
        module: The module, at the end of the pass.
        answers: Those of the pass.
        metrics: What else was measured.

    Raises:
        UserError: If a metric is not finite.
    """
    trainer, samples = module.trainer, answers.finish()
    if samples:
        metrics = metrics | summarize(samples, answers.before)
    named = {f"val/{name}": value for name, value in metrics.items()}
    check_finite(trainer, named)
    if trainer.sanity_checking:
        answers.before = samples
        # Lightning drops what is logged during its sanity check.
        for logger in trainer.loggers:
            logger.log_metrics(named | {"epoch": -1}, step=0)
    else:
        module.log_dict(named, batch_size=1, sync_dist=True)
    if samples:
        notify(trainer, "on_evaluation_end", 0 if trainer.sanity_checking else trainer.current_epoch + 1, samples)


def save_before(answers: HeldOutAnswers, checkpoint: dict[str, Any]) -> None:
    """Puts the answers before training into a checkpoint."""
    checkpoint[_KEY] = answers.before


def load_before(module: LightningModule, answers: HeldOutAnswers, checkpoint: dict[str, Any]) -> None:
    """Takes the answers before training from a checkpoint; the run that goes on does not evaluate them again."""
    answers.before = checkpoint.get(_KEY)
    # From a checkpoint at the end of an epoch Lightning would make its sanity check, with weights that have been
    # trained. There is no trainer where a checkpoint is only looked at.
    if module._trainer is not None:
        module.trainer.num_sanity_val_steps = 0
