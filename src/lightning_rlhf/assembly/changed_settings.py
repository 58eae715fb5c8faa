"""Compares the settings of a resumed run with those of the stopped run, and refuses changes that cannot take effect."""

import re
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.run_files import read_settings
from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.stages import stage_record
from lightning_rlhf.yaml_files import read_yaml

# Settings of a command and not of a run.
_OF_COMMAND = ("resume", "run_dir")
# The checkpoint determines the weights and their kind, the order of the rows and the random numbers, and Lightning
# restores the optimizer with its learning rates.
_OF_CHECKPOINT = ("model", "roles", "seed")
_OF_BLOCK = ("module.lr", "module.critic_lr", "module.optim", "module.kl_coef", "module.refresh_reference_every")
_OF_START = ("critic_init", "critic_head")
# Earlier stages of a pipeline hand on the same model, in a folder that may have been moved.
_FREE = ("model.pretrained", "model.tokenizer", "model.meta_dir", "model.adapter_dir")
# These change how a model is computed, but not the model.
_HOW = ("model.gradient_checkpointing", "model.compile", "model.attn_implementation")
# Follows `seed`, which is compared already.
_TWICE = ("model.seed",)
# These change no order of the rows to train on. All other settings of the data could.
_FREE_OF_DATA = (
    *("minibatch_size", "max_tokens_per_micro_batch", "max_length", "max_prompt_length", "ptx_max_length", "loss_on"),
    *("val_path", "val_batch_size", "prompts_held_out", "answer_prompts"),
)
# Data may have been moved, unless they are still where they were.
_PATHS_OF_DATA = ("path", "ptx_path")
_STRATEGY = "trainer.strategy"
_OWN_STRATEGIES = re.compile(r"lightning_rlhf\.strategies\.(\w+)\.")


def check_unchanged(config: DictConfig, name: str, stopped: Path, *, finished: bool, handed_on: bool) -> None:
    """Compares the settings of a stage with those of the earlier run that it resumes.

    Settings that take effect after the resumption may change, such as `trainer`, `callbacks`, or the number of epochs.

    Args:
        config: The new settings, after the handoff from earlier stages.
        name: Name of the stage.
        stopped: Folder of the stage in the earlier run. Nothing is compared if the folder holds no settings.
        finished: Whether the stage has finished and is not run again, so that none of its own settings would apply.
        handed_on: Whether an earlier stage of the pipeline determines the model that the stage starts from.

    Raises:
        UserError: If a changed setting would be recorded but have no effect; the message names each with its old and
            new value. Also if the settings of the earlier run name code that would be run.
    """
    record = stopped / "config.yaml"
    if not record.is_file():
        return
    earlier = read_settings(record, trust_remote_code=config.model.trust_remote_code)
    old, new = _settings(earlier), _settings(config)
    block = stage_record(name).block
    fixed = [*_OF_CHECKPOINT, *(f"{block}.{key}" for key in (*_OF_BLOCK, *_OF_START, "data"))]
    moved = [key for key in _PATHS_OF_DATA if not Path(str(old.get(f"{block}.data.{key}"))).exists()]
    free = [*_HOW, *_TWICE, *(_FREE if handed_on else ()), *(f"{block}.data.{key}" for key in (*_FREE_OF_DATA, *moved))]
    if finished:
        fixed, free = [block], []
    problems = [
        f"{key}={new.get(key)} was {old.get(key)} in {stopped}, "
        + (f"where {name} has finished" if finished else "and the checkpoint depends on it")
        for key in sorted(old.keys() | new.keys())
        if _below(key, fixed) and not _below(key, free) and old.get(key) != new.get(key)
    ]
    strategies = [_kind_of_checkpoint(settings) for settings in (new, old)]
    if not finished and strategies[0] != strategies[1]:
        problems.append(f"strategy={strategies[0]} was {strategies[1]} in {stopped}, and reads other checkpoints")
    raise_problems(
        f"{problem}: a resumed run cannot change it; leave it as it was, or start a new run" for problem in problems
    )


def changes(config: DictConfig) -> dict[str, tuple[object, object]]:
    """The settings that a command changes in the run that it resumes.

    Args:
        config: The new configuration, as it was composed.

    Returns:
        The former and the new value of each setting that differs, by its dotted name. Interpolations stay as they are.
        Empty if nothing is resumed, or if Hydra has not written the configuration of the earlier run into its folder.

    Raises:
        UserError: If the file with the configuration of the earlier run is damaged.
    """
    file = Path(config.resume or "").expanduser() / ".hydra" / "config.yaml"
    if config.resume is None or not file.is_file():
        return {}
    old, new = (_flat(OmegaConf.to_container(each, resolve=False)) for each in (read_yaml(file), config))
    if "stages" not in old:
        raise UserError(f"{file}: not the configuration of a run: it may have been cut off; copy the folder again")
    names = [key for key in {**old, **new} if key not in _OF_COMMAND and old.get(key) != new.get(key)]
    return {key: (old.get(key), new.get(key)) for key in names}


def check_same_stages(config: DictConfig) -> None:
    """Compares the stages of a resumed run with those of the earlier run.

    Args:
        config: The new configuration.

    Raises:
        UserError: If they differ.
    """
    old, new = changes(config).get("stages", (None, None))
    if old != new:
        raise UserError(
            f"stages={new} was {old} in {config.resume}: a resumed run cannot change its stages; leave them as they "
            "were, or start a new run"
        )


def _kind_of_checkpoint(settings: Mapping[str, object]) -> str:
    """The strategies that read the checkpoints of a strategy; those of Lightning write one file."""
    own = _OWN_STRATEGIES.match(str(settings.get(f"{_STRATEGY}._target_")))
    return own[1] if own else "single or ddp"


def _settings(config: DictConfig) -> dict[str, object]:
    """All settings by their dotted names; paths within the run folder are relative to it, so that two runs compare."""
    flat = _flat(OmegaConf.to_container(config, resolve=True))
    folder = str(flat["run_dir"])
    return {
        key: value.removeprefix(folder) if isinstance(value, str) and key != "run_dir" else value
        for key, value in flat.items()
    }


def _below(key: str, prefixes: list[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _flat(node: object, path: str = "") -> dict[str, object]:
    """The leaves of a configuration by their dotted names."""
    if not isinstance(node, dict):
        return {path: node}
    leaves: dict[str, object] = {}
    for key, child in node.items():
        leaves |= _flat(child, f"{path}.{key}" if path else str(key))
    return leaves
