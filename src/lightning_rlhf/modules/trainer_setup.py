"""Settings that every stage applies to its trainer, whether the command line or a user of the library made it."""

from lightning.pytorch import LightningModule

from lightning_rlhf.distributed.checkpoint_files import keep_last_file
from lightning_rlhf.distributed.half_precision import keep_digits


def set_up_trainer(module: LightningModule, stage: str) -> None:
    """Serves as the hook `setup` of every stage's module.

    Raises:
        UserError: If the precision of the trainer would round the numbers of a batch.
    """
    keep_digits(module.trainer)
    keep_last_file(module.trainer)
