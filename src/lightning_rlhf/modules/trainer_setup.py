"""What every stage gives its trainer, whoever makes it: the command line or a user of the library."""

from lightning.pytorch import LightningModule

from lightning_rlhf.distributed.checkpoint_files import keep_last_file
from lightning_rlhf.distributed.half_precision import keep_digits


def set_up_trainer(module: LightningModule, stage: str) -> None:
    """The hook `setup` of every stage's module.

    Raises:
        UserError: If the trainer's precision would round the numbers of a batch.
    """
    keep_digits(module.trainer)
    keep_last_file(module.trainer)
