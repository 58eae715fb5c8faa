"""What both FSDP strategies do in the same way: gradient norms of each role, and checkpoints."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from lightning_rlhf.distributed.checkpoint_folders import replacing
from lightning_rlhf.distributed.gradient_norms import divided_norms, gradients, shrink
from lightning_rlhf.strategies.fsdp import checkpoint as distributed_checkpoint


class DividedByFSDP(ParallelStrategy):
    """The part of `Sharding` that holds for gradients and weights divided among all processes by FSDP1 or FSDP2."""

    shards_parameters = True

    @abstractmethod
    def checkpoint_root(self) -> nn.Module:
        """Returns the module whose weights a checkpoint holds, by the names that they have in it."""

    def grad_norms(self) -> dict[str, Tensor] | None:
        """See `Sharding`."""
        return divided_norms(gradients(self.optimizers[0]), self.root_device)

    def last_grad_norms(self) -> dict[str, Tensor] | None:
        """See `Sharding`: `grad_norms` has returned them."""
        return None

    def release(self) -> None:
        """See `Sharding`: its memory is freed with the module."""

    def clip_by_role(self, max_norm: float) -> None:
        """See `Sharding`."""
        roles = gradients(self.optimizers[0])
        shrink(roles, divided_norms(roles, self.root_device), max_norm)

    def save_checkpoint(self, checkpoint: dict[str, object], filepath: Any, storage_options: object = None) -> None:
        """Writes a folder; see `fsdp.checkpoint`."""
        with replacing(Path(self.broadcast(filepath)), self) as folder:
            distributed_checkpoint.save(checkpoint, folder, is_first=self.is_global_zero)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a folder, whatever the number of processes that wrote it.

        Raises:
            UserError: If another strategy has written the checkpoint, or it holds other models.
        """
        module = self.lightning_module
        assert module is not None
        return distributed_checkpoint.load(
            Path(self.broadcast(checkpoint_path)),
            self.checkpoint_root(),
            self.optimizers if module.trainer.state.fn == TrainerFn.FITTING else [],
            unchanged=getattr(module, "unchanged", tuple)(),
            strict=module.strict_loading,
            weights_only=weights_only,
        )
