"""Checks the numbers with which PPO is configured.

No comparison holds for NaN, so each check says what must hold, and not what must not.
"""

from typing import TYPE_CHECKING

from lightning_rlhf.data.budget import check_budget
from lightning_rlhf.errors import raise_problems

if TYPE_CHECKING:
    from lightning_rlhf.modules.ppo import PPOModule

_POSITIVE = ("rollout_batch_size", "rollout_micro_batch_size", "minibatch_size", "ppo_epochs")
_NOT_NEGATIVE = ("lr", "critic_lr", "kl_coef", "ptx_coef", "refresh_reference_every")
_CLIPS_BY = ("role", "all")


def check_values(module: "PPOModule") -> None:
    """Checks the settings of a module.

    Raises:
        UserError: If values are impossible; the message names all of them.
    """
    values, by = vars(module), module.clip_gradients_by
    check_budget(module.max_tokens_per_micro_batch)
    problems = [f"{name}={values[name]}: must not be negative" for name in _NOT_NEGATIVE if not values[name] >= 0]
    problems += [f"{name}={values[name]}: must be positive" for name in _POSITIVE if not values[name] > 0]
    if by not in _CLIPS_BY:
        problems.append(f"clip_gradients_by={by}: must be {' or '.join(_CLIPS_BY)}")
    raise_problems(problems)
