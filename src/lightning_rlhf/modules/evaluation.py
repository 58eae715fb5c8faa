"""Logs the measurements of a stage on held-out data, and keeps the answers before training for comparison."""

from lightning.pytorch import LightningModule

from lightning_rlhf.hooks import notify
from lightning_rlhf.modules.checkpoint import Checkpoint
from lightning_rlhf.modules.finite import check_finite
from lightning_rlhf.rollout.evaluate import HeldOutAnswers, summarize

_KEY = "answers_before"


def log_evaluation(module: LightningModule, answers: HeldOutAnswers, metrics: dict[str, float]) -> None:
    """Logs the metrics of a validation pass, including those of its answers to held-out prompts if there are any.

    Lightning's sanity check measures the state before training. It is logged as epoch -1, and later answers are
    compared with its answers.

    Args:
        module: The module, at the end of the pass.
        answers: The answers of the pass.
        metrics: Other metrics of the pass, by name.

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
        # Lightning discards everything that is logged during its sanity check.
        for logger in trainer.loggers:
            logger.log_metrics(named | {"epoch": -1}, step=0)
    else:
        module.log_dict(named, batch_size=1, sync_dist=True)
    if samples:
        notify(trainer, "on_evaluation_end", 0 if trainer.sanity_checking else trainer.current_epoch + 1, samples)


def save_before(answers: HeldOutAnswers, checkpoint: Checkpoint) -> None:
    """Adds the answers before training to a checkpoint."""
    checkpoint[_KEY] = answers.before


def load_before(module: LightningModule, answers: HeldOutAnswers, checkpoint: Checkpoint) -> None:
    """Restores the answers before training from a checkpoint, so that a resumed run does not draw them again."""
    answers.before = checkpoint.get(_KEY)
    # After a checkpoint at the end of an epoch, Lightning would run its sanity check again, with trained weights.
    # There is no trainer if a checkpoint is only inspected.
    if module._trainer is not None:
        module.trainer.num_sanity_val_steps = 0
