"""Sees that adapters learn."""

from collections import defaultdict
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters import is_part_of_adapter
from lightning_rlhf.models.playing import adapter_layers
from lightning_rlhf.modules.ppo import PPOModule
from lightning_rlhf.strategies.blocks import nets
from lightning_rlhf.strategies.phases import sharding, whole

# The first may have a learning rate of 0, and before the second a critic's head may be 0.
_STEPS = 3


class AdapterCheck(Callback):
    """Stops a run whose adapters get no gradient: it would end with the model that it began with.

    After the first backward pass each of them has one. Its second matrix is 0 before training, so after three steps it
    is not; but in PPO all of a net's may be, since nothing is learnt while all samples have the same score.
    """

    def __init__(self) -> None:
        """Has nothing to set."""
        self.passed = False

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Looks whether there is anything to see."""
        self.passed = not adapter_layers(pl_module)

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        """Looks at the gradients of the first step, where a process holds whole ones.

        Raises:
            UserError: If an adapter has none.
        """
        if self.passed or trainer.global_step > 0 or sharding(trainer):
            return
        weights = {name: p for name, p in pl_module.named_parameters() if p.requires_grad and is_part_of_adapter(name)}
        _stop_for([name for name, weight in weights.items() if weight.grad is None], "get no gradient")

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Looks at the second matrices, until all of them have changed.

        Raises:
            UserError: If one has not.
        """
        if self.passed or trainer.global_step < _STEPS or not _learning_rate(trainer):
            return
        self.passed = True
        # One after the other, since nets that are whole may be too large together.
        for net in nets(pl_module):
            with whole(trainer, net):
                for matrices in _second_matrices(net):
                    zero = [name for name, weight in matrices.items() if not weight.any()]
                    if len(zero) == len(matrices) and isinstance(pl_module, PPOModule):
                        self.passed = False
                    else:
                        _stop_for(zero, f"have not changed in {trainer.global_step} steps")


def _learning_rate(trainer: Trainer) -> float:
    return max(group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups)


def _second_matrices(net: nn.Module) -> list[dict[str, Tensor]]:
    """Those that are trained, of each adapter together."""
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, weight in net.named_parameters():
        _, is_second, adapter = name.partition(".lora_B.")
        if is_second and weight.requires_grad:
            found[adapter][name] = weight
    return list(found.values())


def _stop_for(names: list[str], why: str) -> None:
    if names:
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise UserError(
            f"model.adapter: {len(names)} weights of adapters {why}, so they are not trained: {some}; "
            "set model.adapter.target_modules to layers that the loss depends on"
        )
