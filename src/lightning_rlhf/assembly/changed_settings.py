"""Settings that a run that goes on gives otherwise than the stopped one: those that cannot apply are refused."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.run_files import read_settings
from lightning_rlhf.errors import raise_problems
from lightning_rlhf.stages import stage_record

# Weights, and what they are like, come from the checkpoint; so do the order of rows and the random numbers behind what
# was read, and Lightning restores the optimizer with its learning rates.
_OF_CHECKPOINT = ("model", "roles", "seed")
_OF_BLOCK = ("module.lr", "module.critic_lr", "module.optim", "module.kl_coef", "module.refresh_reference_every")
_OF_START = ("critic_init", "critic_head")
# What earlier stages of a pipeline hand on: the same model in a folder that may have been moved. And what changes how a
# net is computed, but not what it is.
_FREE = ("model.pretrained", "model.tokenizer", "model.meta_dir", "model.adapter_dir")
_HOW = ("model.gradient_checkpointing", "model.compile", "model.attn_implementation")
# Named as `seed` already.
_TWICE = ("model.seed",)


def check_unchanged(config: DictConfig, name: str, stopped: Path, *, finished: bool, handed_on: bool) -> None:
    """Compares the settings of a stage with those of the stage that it goes on from.

    Settings that take effect from here on may change, such as `trainer`, `data`, `callbacks`, or the number of epochs.

    Args:
        config: The new settings, with what earlier stages have handed on.
        name: Of the stage.
        stopped: Its folder in the earlier run; where there are no settings in it, nothing is compared.
        finished: Whether the stage is not run again, so that none of its own settings would apply.
        handed_on: Whether an earlier stage of the pipeline says which model it starts from.

    Raises:
        UserError: If a setting would be recorded and not applied: names each with its old and new value; or if the
            settings of the earlier run name something that would be run.
    """
    record = stopped / "config.yaml"
    if not record.is_file():
        return
    earlier = read_settings(record, trust_remote_code=config.model.trust_remote_code)
    old, new = _settings(earlier), _settings(config)
    block = stage_record(name).block
    fixed = [*_OF_CHECKPOINT, *(f"{block}.{key}" for key in (*_OF_BLOCK, *_OF_START))]
    free = [*_HOW, *_TWICE, *(_FREE if handed_on else ())]
    if finished:
        fixed, free = [block], []
    raise_problems(
        f"{key}={new.get(key)} was {old.get(key)} in {stopped}, "
        + (f"where {name} is finished" if finished else "and the checkpoint holds it")
        + ": a run that goes on cannot change it; leave it as it was, or start a new run"
        for key in sorted(old.keys() | new.keys())
        if _below(key, fixed) and not _below(key, free) and old.get(key) != new.get(key)
    )


def _settings(config: DictConfig) -> dict[str, Any]:
    """All settings by their dotted names; files that a run writes for itself are the same in another folder."""
    flat = _flat(OmegaConf.to_container(config, resolve=True))
    folder = str(flat["run_dir"])
    return {
        key: value.removeprefix(folder) if isinstance(value, str) and key != "run_dir" else value
        for key, value in flat.items()
    }


def _below(key: str, prefixes: list[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _flat(node: Any, path: str = "") -> dict[str, Any]:
    """Leaves by their dotted names."""
    if not isinstance(node, dict):
        return {path: node}
    leaves: dict[str, Any] = {}
    for key, child in node.items():
        leaves |= _flat(child, f"{path}.{key}" if path else str(key))
    return leaves
