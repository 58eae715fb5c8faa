"""Chooses the number of accumulated parts of a stage, so that no micro-batch exceeds its token budget or the memory."""

from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig

from lightning_rlhf.assembly.plan_job import job_of
from lightning_rlhf.assembly.plan_stage import fragmentation
from lightning_rlhf.assembly.stage_checks import minibatch_settings
from lightning_rlhf.callbacks.run_facts import used_minibatch_size
from lightning_rlhf.data import PreferenceDataModule, PromptDataModule, SFTDataModule
from lightning_rlhf.data.adapting import adapted
from lightning_rlhf.data.budget import Load, parts_within
from lightning_rlhf.data.shares import Shares
from lightning_rlhf.modules.ppo import PPOModule
from lightning_rlhf.modules.ppo_rollout import update_loads
from lightning_rlhf.planner.fitting import Limits, largest_micro_batch
from lightning_rlhf.planner.plan import Plan
from lightning_rlhf.planner.this_machine import device_memory, host_memory
from lightning_rlhf.sizes import readable

if TYPE_CHECKING:
    from lightning_rlhf.assembly.stage import PreparedStage

SETTING = "max_tokens_per_micro_batch"


def adapted_config(stage: "PreparedStage") -> DictConfig:
    """The configuration of a stage with the sizes that it uses: those of a minibatch, its parts and a micro-batch.

    The recorded configuration keeps the settings, so that a resumed run compares what the user asked for.
    """
    config = stage.config.copy()
    block = config[stage.record.block]
    block.trainer.accumulate_grad_batches = stage.trainer.accumulate_grad_batches
    sizes = minibatch_settings(block)
    if (size := used_minibatch_size(stage.module, stage.data)) is not None:
        sizes.minibatch_size = size
    if SETTING in sizes:
        sizes[SETTING] = getattr(stage.module if sizes is block.module else stage.data, SETTING, None)
    return config


def choose_parts(stage: "PreparedStage") -> None:
    """Sets `accumulate_grad_batches` of the trainer of a stage whose data have been read; it never becomes smaller.

    If the stage has no token budget, and the plan says that its minibatches do not fit into the memory as they are
    shared, the budget is that of the largest micro-batch that fits. A run on several machines has no such budget,
    because their memories may differ, and all processes need the same number of parts.

    Args:
        stage: The stage. If its data module or its module is one of your own, nothing is changed.
    """
    holder, loads = _holder(stage), _loads(stage)
    if not loads:
        return
    budget, reason = getattr(holder, SETTING), ""
    if budget is None:
        budget, reason = _budget_of_memory(stage)
        if budget is None:
            return
        setattr(holder, SETTING, budget)
    trainer = stage.trainer
    parts = parts_within(budget, loads, trainer.world_size, trainer.accumulate_grad_batches)
    trainer.accumulate_grad_batches = parts
    if reason:
        adapted(f"{SETTING}={budget} and accumulate_grad_batches={parts}: {reason}")
    if (longest := _longest(loads)) > budget:
        adapted(f"{SETTING}={budget}: rows have up to {longest} tokens, so a row that is longer is a part by itself")


def most_tokens(stage: "PreparedStage") -> int | None:
    """The most tokens of a micro-batch, padding included; None if the stage has a data module or module of your own."""
    loads = _loads(stage)
    if not loads:
        return None
    longest, budget = _longest(loads[:1]), getattr(_holder(stage), SETTING)
    rows = Shares.of(loads[0].minibatch_size, stage.trainer, budget).micro_batch_size
    return rows * longest if budget is None else max(longest, min(budget, rows * longest))


def _holder(stage: "PreparedStage") -> Any:
    """The module or the data module, whichever makes the minibatches."""
    return stage.module if isinstance(stage.module, PPOModule) else stage.data


def _loads(stage: "PreparedStage") -> list[Load]:
    if isinstance(stage.module, PPOModule) and isinstance(stage.data, PromptDataModule):
        return update_loads(stage.module, stage.data.train_prompts, stage.data.ptx)
    if isinstance(stage.data, SFTDataModule | PreferenceDataModule):
        return [Load(stage.data.minibatch_size, stage.data.row_tokens())]
    return []


def _longest(loads: list[Load]) -> int:
    return max(int(load.lengths.max()) for load in loads)


def _budget_of_memory(stage: "PreparedStage") -> tuple[int | None, str]:
    """The token budget that the memory allows, with the reason for it; None if there is no need or no use for one."""
    if stage.trainer.num_nodes > 1:
        return None, ""
    try:
        plan = Plan(job_of(adapted_config(stage), stage.record.name), fragmentation())
        limits = Limits(device_memory() if plan.job.on_gpu else None, host_memory().size)
        largest = None if plan.fits(*limits) else largest_micro_batch(plan, limits)
    except Exception:  # a custom architecture or strategy may raise anything on fake tensors
        return None, ""
    if largest is None:
        return None, ""
    name, short = next(iter(plan.short(*limits).items()))
    available = cast(int, limits.device if name == "device_memory" else limits.host)
    return largest.rows * plan.job.row_tokens, (
        f"micro-batches of {plan.job.micro_batch_size} rows would need {readable(available + short)}, and there are "
        f"{readable(available)} of {name.replace('_', ' ')}"
    )
