"""What the modules of all stages do alike for Lightning: settings of the trainer, and loading from a checkpoint."""

from pathlib import Path
from typing import Self

import torch
from lightning.pytorch import LightningModule

from lightning_rlhf.distributed.checkpoint_files import keep_last_file
from lightning_rlhf.distributed.half_precision import keep_digits
from lightning_rlhf.errors import UserError
from lightning_rlhf.modules.arguments import read_arguments
from lightning_rlhf.modules.checkpoint import beside_adapters, leave_out
from lightning_rlhf.strategies.checkpoint_weights import read_checkpoint


class StageModule(LightningModule):
    """The module of a stage."""

    def setup(self, stage: str) -> None:
        """Applies the settings that every stage needs, whoever made the trainer.

        Raises:
            UserError: If the precision of the trainer would round the numbers of a batch.
        """
        keep_digits(self.trainer)
        keep_last_file(self.trainer)

    def unchanged(self) -> tuple[str, ...]:
        """Returns the prefixes of weights that never change: frozen weights beside adapters."""
        return beside_adapters(self)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: torch.device | str = "cpu", **arguments: object
    ) -> Self:
        """Builds a module with the weights of a checkpoint.

        Args:
            checkpoint_path: A file, or a folder that a sharding strategy has written. It need not be trusted.
            map_location: The device of the module.
            **arguments: Arguments of the constructor. They replace those that the checkpoint describes, and are needed
                where it cannot describe them: models, and functions of your own.

        Raises:
            UserError: If this is no checkpoint of such a module, it could run code, or an argument is missing.
        """
        path = Path(checkpoint_path).expanduser()
        call = f"{cls.__name__}.load_from_checkpoint({str(checkpoint_path)!r})"
        if not path.exists():
            raise UserError(f"{call}: there is no such file or folder ({path.absolute()})")
        checkpoint = read_checkpoint(path)
        module = cls(**read_arguments(checkpoint, cls, call, arguments))
        module.configure_model()
        # A strategy may have written frozen weights too.
        leave_out(checkpoint, module.unchanged())
        module.on_load_checkpoint(checkpoint)
        module.load_state_dict(checkpoint["state_dict"], strict=module.strict_loading)
        return module.to(map_location)
