"""Errors about what ColossalAI cannot do, raised before ColossalAI divides a module."""

from collections.abc import Sequence

import torch
from lightning.pytorch import Trainer
from torch import nn

from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.strategies.colossalai.boost import PLACEMENTS, require_colossalai
from lightning_rlhf.strategies.colossalai.engine import Engine
from lightning_rlhf.strategies.colossalai.precision import DTYPES


def check_settings(stage: int, placement_policy: str) -> None:
    """Checks the settings of the strategy.

    Raises:
        UserError: If a value is impossible, or ColossalAI is not installed.
    """
    if stage not in (1, 2, 3):
        raise UserError(f"ColossalAIStrategy: stage={stage} must be 1, 2 or 3")
    if placement_policy not in PLACEMENTS or (placement_policy == "auto" and stage != 3):
        raise UserError(
            f"ColossalAIStrategy: placement_policy={placement_policy} must be cuda or cpu, or auto with stage=3"
        )
    require_colossalai("strategy=colossalai… (ColossalAIStrategy)")


def check_trainer(trainer: Trainer, stage: int, precision: str) -> None:
    """Checks that ColossalAI supports the settings of the trainer.

    Raises:
        UserError: If it does not; the message lists all reasons.
    """
    problems = []
    if precision not in DTYPES:
        problems.append(f"trainer.precision={precision}: ColossalAIStrategy supports {', '.join(DTYPES)}")
    elif stage == 3 and DTYPES[precision] == torch.float32:
        problems.append(f"trainer.precision={precision}: Gemini computes in 16 bits only: set bf16-mixed or 16-mixed")
    if trainer.gradient_clip_algorithm == "value" and trainer.gradient_clip_val:
        problems.append(
            "trainer.gradient_clip_algorithm=value: ColossalAIStrategy clips by norm only, inside the optimizer's step"
        )
    raise_problems(problems)


def check_undivided(module: nn.Module, engine: Engine | None) -> None:
    """Checks that Gemini has not divided a module, and that its strategy has no engine from an earlier run.

    Raises:
        UserError: If it has.
    """
    if any(type(parameter).__name__ == "ColoParameter" for parameter in module.parameters()) or engine:
        raise UserError(
            "ColossalAIStrategy: Gemini has divided this module's weights in an earlier run, and does not put them "
            "together again: build a new module and trainer, and give ckpt_path or an export"
        )


def check_one_optimizer(optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Checks that a module has exactly one optimizer.

    Raises:
        UserError: If it has none or several.
    """
    if len(optimizers) != 1:
        raise UserError(
            f"ColossalAIStrategy: the module has {len(optimizers)} optimizers, but the strategy trains with exactly "
            "one: use one optimizer with several parameter groups"
        )
