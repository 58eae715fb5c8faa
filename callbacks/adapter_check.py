"""Checks that adapters learn."""

import math
from collections import Counter, defaultdict
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor, nn

from lightning_rlhf.distributed.blocks import models_in
from lightning_rlhf.distributed.phases import sharding, whole
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Experience, Rollout
from lightning_rlhf.hooks import RLHFCallback
from lightning_rlhf.models.adapters.active import adapter_layers
from lightning_rlhf.models.adapters.lora import is_part_of_adapter
from lightning_rlhf.models.shared import CRITIC
from lightning_rlhf.modules.stage_module import samples

# The first step may have a learning rate of 0, and before the second step the head of a critic may be 0.
_STEPS = 3
# The rounding error of advantages of 0 in fp32.
_ROUNDING = 1e-6


class AdapterCheck(RLHFCallback):
    """Stops a run whose adapters get no gradient, because it would end with the model with which it began.

    After the first backward pass, each adapter must have a gradient. Its second matrix is 0 before training, and must
    not be 0 after three steps. In PPO, all second matrices of a model may stay 0 for longer, but only until three steps
    had something to learn from: an advantage for the actor, or an unexpected return for the critic.
    """

    def __init__(self) -> None:
        """Starts without results."""
        self.passed = False
        # Whether all second matrices of a model were still 0.
        self._waits = False
        # The number of steps with something to learn from, by role, in this iteration and before it.
        self._new_lessons: Counter[str] = Counter()
        self._lessons: Counter[str] = Counter()

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Checks whether there are adapters."""
        self.passed = not adapter_layers(pl_module)

    def on_rollout_end(self, trainer: Trainer, module: Any, rollout: Rollout) -> None:
        """Computes a lower bound of the steps of this iteration with something to learn from, in any order of rows."""
        rows = _rows_to_learn_from(rollout.experience)
        self._new_lessons = Counter(
            {role: math.ceil(count / module.minibatch_size) * module.ppo_epochs for role, count in rows.items()}
        )

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        """Checks the gradients of the first step, if a process holds whole gradients.

        Raises:
            UserError: If an adapter has none.
        """
        if self.passed or trainer.global_step > 0 or sharding(trainer):
            return
        weights = {name: p for name, p in pl_module.named_parameters() if p.requires_grad and is_part_of_adapter(name)}
        _stop_for([name for name, weight in weights.items() if weight.grad is None], "get no gradient")

    def on_train_batch_end(self, trainer: Trainer, pl_module: object, *_: object) -> None:
        """Checks the second matrices after three steps.

        Raises:
            UserError: If one has not changed.
        """
        if not self._waits:
            self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: object) -> None:
        """Checks models again after an iteration if they had nothing to learn from before.

        Raises:
            UserError: If an adapter has learnt nothing.
        """
        self._lessons += self._new_lessons
        self._new_lessons.clear()
        if self._waits:
            self._look(trainer, pl_module)

    def _look(self, trainer: Trainer, module: Any) -> None:
        if self.passed or trainer.global_step < _STEPS or not _learns(trainer):
            return
        self._waits = False
        names = {id(part): name for name, part in module.named_modules()}
        # Models are gathered one after the other, because all of them may be too large together.
        for net in models_in(module):
            with whole(trainer, net):
                for adapter, matrices in _second_matrices(net).items():
                    zero = [name for name, weight in matrices.items() if not weight.any()]
                    role = "critic" if CRITIC in f"{names[id(net)]}.{adapter}".split(".") else "actor"
                    if len(zero) == len(matrices) and samples(module) and self._may_wait(trainer, role):
                        self._waits = True
                    else:
                        _stop_for(zero, f"have not changed in {trainer.global_step} steps")
        self.passed = not self._waits

    def _may_wait(self, trainer: Trainer, role: str) -> bool:
        return self._lessons[role] < _STEPS or not _learns(trainer, role)


def _rows_to_learn_from(experience: Experience) -> dict[str, int]:
    """Returns the number of responses with something to learn from, by role."""
    mask = experience.sequences.response_mask
    lessons = {"actor": experience.advantages}
    if experience.returns is not None and experience.old_values is not None:
        lessons["critic"] = experience.returns - experience.old_values
    return {role: int(((lesson.abs() > _ROUNDING) & mask).any(1).sum()) for role, lesson in lessons.items()}


def _learns(trainer: Trainer, role: str = "") -> bool:
    """Whether a parameter group of a role, or of any role, has a learning rate above 0."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return any(group["lr"] for group in groups if group.get("name", role).startswith(role))


def _second_matrices(net: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Returns the trained second matrices, by adapter."""
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, weight in net.named_parameters():
        _, is_second, adapter = name.partition(".lora_B.")
        if is_second and weight.requires_grad:
            found[adapter.split(".")[0]][name] = weight
    return found


def _stop_for(names: list[str], why: str) -> None:
    if names:
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise UserError(
            f"model.adapter: {len(names)} weights of adapters {why}, so they are not trained: {some}; "
            "set model.adapter.target_modules to layers that the loss depends on"
        )
