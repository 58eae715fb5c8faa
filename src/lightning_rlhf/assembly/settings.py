"""Checks the settings of a run as far as that is possible without torch, whose import takes seconds."""

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.problems import Problems
from lightning_rlhf.assembly.stage_checks import check_quantization, check_roles, minibatch_settings
from lightning_rlhf.data.paths import is_local
from lightning_rlhf.data.shares import Shares, check_sizes
from lightning_rlhf.errors import UserError, require
from lightning_rlhf.models.locations import check_whole_model, find_place
from lightning_rlhf.rewards.function import TextReward
from lightning_rlhf.stages import STAGES, StageRecord, stage_record

REWARD_PATH = (
    "is not set: give the folder of a trained reward model (the model/ that stage=reward left in its run folder), or "
    "reward=function reward.function=module:function"
)
"""The remedy for a reward model without a path."""

_GROUPS = ("data", "rollout", "optim")
"""Groups whose settings have an effect only where another setting refers to them, or code reads them."""
_REFERENCE = re.compile(r"\$\{(?:oc\.(?:select|dict\.\w+):)?\s*(\.*)([^\s.{}:$,'\"][^\s{}:$,'\"]*)\s*(?=[},]|\$\{)")
"""A reference to a setting, or the begin of one that contains another; a resolver has a colon behind its name."""
_DATA = ("path", "val_path", "prompts_held_out", "ptx_path")
"""Settings of data modules that name data."""


def check_effects(config: DictConfig, problems: Problems) -> None:
    """Adds settings that would have no effect, and stages that do not exist, to the problems; see `check_settings`."""
    records = []
    for name in config.stages:
        with problems.collected():
            records.append(stage_record(name))
    for message in (*_unknown(config, records), *_shadowed(config, records)):
        problems.add(message)


def references_in(plain: object, place: tuple[str, ...] = ()) -> set[str]:
    """The settings that others refer to, as `${rate}`, `${rates[small]}`, `${.rate}` or `${oc.select:rate}` do.

    Of a reference that contains another one, as `${rates.${size}}` does, both `rates` and `size` are referred to.

    Args:
        plain: A configuration as plain containers with unresolved references.
        place: The keys that lead to the container.
    """
    if isinstance(plain, dict):
        return set[str]().union(*(references_in(child, (*place, str(key))) for key, child in plain.items()))
    if isinstance(plain, list):
        return set[str]().union(*(references_in(child, (*place, str(number))) for number, child in enumerate(plain)))
    found = set()
    for dots, name in _REFERENCE.findall(plain) if isinstance(plain, str) else ():
        # A reference that begins with a dot counts from the container of its setting, and each further dot goes up.
        above = place[: len(place) - len(dots)] if dots else ()
        found.add(".".join((*above, *re.findall(r"[^.\[\]]+", name))))
    return found


def is_read(key: str, references: Collection[str]) -> bool:
    """Checks whether one of the references is to a setting, to a part of it, or to a section that contains it."""
    return any(f"{name}.".startswith(f"{key}.") or f"{key}.".startswith(f"{name}.") for name in references)


def check_settings(config: DictConfig, problems: Problems) -> None:
    """Adds what is wrong with the settings of a run to the problems.

    Args:
        config: The composed configuration of `train`.
        problems: Receives one message for each mistake.
    """
    check_effects(config, problems)
    records = [STAGES[name] for name in config.stages if name in STAGES]
    for message in _unset(config, records):
        problems.add(message)
    checks: list[Callable[[], object]] = [
        partial(_check_loggers, config),
        partial(_check_model, config),
        partial(_check_gold, config),
    ]
    for record in records:
        block = config[record.block]
        checks += [
            partial(check_roles, config.roles, record, config.model),
            partial(check_quantization, config.model, block, config.roles, divides=False),
            partial(_check_sizes, config, record),
            partial(_check_fraction, block.data),
            *(partial(_check_data, config, block.data, key) for key in _DATA),
        ]
    if any(record.samples for record in records):
        checks += [partial(TextReward, name) for name in _functions(config)]
    for check in checks:
        with problems.collected():
            check()


def _unknown(config: DictConfig, records: Sequence[StageRecord]) -> Iterator[str]:
    """Keys that no option of the group has and nothing refers to."""
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    references = references_in(plain)
    known = {group: _keys_of_options(group) for group in _GROUPS}
    known |= {record.block: _keys_of_block(record) for record in records}
    for place, keys in known.items():
        for key in plain.get(place) or {}:
            if key not in keys and not is_read(f"{place}.{key}", references):
                close = difflib.get_close_matches(str(key), keys, n=1)
                guess = f"; did you mean {place}.{close[0]}?" if close else f"; {place} has {', '.join(sorted(keys))}"
                yield f"{place}.{key}: there is no such setting{guess}"


def _keys_of_options(group: str) -> set[str]:
    options = Path(str(files("lightning_rlhf.conf") / group)).glob("*.yaml")
    return {str(key) for option in options for key in _loaded(option)} - {"defaults"}


def _keys_of_block(record: StageRecord) -> set[str]:
    return set(_loaded(Path(str(files("lightning_rlhf.conf") / "stage" / f"{record.name}.yaml")))[record.block])


def _loaded(file: Path) -> Mapping[str, Any]:
    config = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def _shadowed(config: DictConfig, records: Sequence[StageRecord]) -> Iterator[str]:
    """Settings of the trainer that every stage replaces by its own."""
    for key in config.trainer:
        own = [f"{record.block}.trainer.{key}" for record in records if key in config[record.block].trainer]
        if own and len(own) == len(records):
            given = config.trainer[key]
            remedy = " ".join(f"{name}={given}" for name in own)
            yield f"trainer.{key}={given} has no effect, because each stage has its own: set {remedy}"


def _unset(config: DictConfig, records: Sequence[StageRecord]) -> Iterator[str]:
    """Settings without a value; a pipeline fills in the reward model that it trains."""
    samples = any(record.samples for record in records)
    trained = any(record.trains_reward_model for record in records)
    places = ["model", "data", "rollout", "trainer", "logger", "callbacks", *(record.block for record in records)]
    for place in [*places, *(["reward"] if samples else [])]:
        for name in _missing(OmegaConf.to_container(config[place], resolve=False), place):
            of_reward_model = place == "reward" and name.endswith(".path")
            if not (of_reward_model and trained):
                yield f"{name} {REWARD_PATH if of_reward_model else f'is not set: give it as {name}=VALUE'}"


def _missing(node: object, place: str) -> Iterator[str]:
    if node == "???":
        yield place
    elif isinstance(node, dict):
        for key, child in node.items():
            yield from _missing(child, f"{place}.{key}")


def _given(node: DictConfig, key: str) -> Any:
    """The value of a setting; None if it has none, or none yet."""
    return None if OmegaConf.is_missing(node, key) else node.get(key)


def _check_loggers(config: DictConfig) -> None:
    for name in ("tensorboard", "wandb"):
        if name in config.logger:
            require(name, name, f"logger={name}")


def _check_model(config: DictConfig) -> None:
    where = _given(config.model, "pretrained")
    # Meta's folder takes the place of a pretrained model.
    if isinstance(where, str) and config.model.get("meta_dir") is None:
        find_place(where, "model.pretrained")
        check_whole_model(where, "model.pretrained")


def _check_gold(config: DictConfig) -> None:
    if isinstance(gold := _given(config.data, "gold"), str):
        TextReward(gold)


def _check_data(config: DictConfig, data: DictConfig, key: str) -> None:
    """Checks that data exist. Data that are computed first do not exist yet."""
    path = _given(data, key)
    if isinstance(path, str) and "write" not in config.data:
        is_local(path, _given(config.data, "config_name"))


def _check_fraction(data: DictConfig) -> None:
    fraction = _given(data, "val_fraction")
    if isinstance(fraction, int | float) and data.get("val_path") is None and not 0 < fraction < 1:
        raise UserError(f"data.val_fraction={fraction}: must lie between 0 and 1")


def _check_sizes(config: DictConfig, record: StageRecord) -> None:
    """Checks that batches divide, as far as the number of devices is known."""
    block, devices = config[record.block], config.trainer.get("devices")
    sizes = minibatch_settings(block)
    processes = devices * config.trainer.num_nodes if isinstance(devices, int) and devices > 0 else 1
    minibatch, accumulate = sizes.minibatch_size, block.trainer.accumulate_grad_batches
    rollout = sizes.rollout_batch_size if record.samples else minibatch
    group = OmegaConf.select(sizes, "credit.num_samples_per_prompt", default=1)
    # Wrong types are told when the signatures are known, for which torch is needed.
    if all(isinstance(number, int) and number > 0 for number in (minibatch, accumulate, processes, rollout, group)):
        minibatch = min(minibatch, rollout)
        if record.samples:
            check_sizes(rollout, minibatch, processes, group)
        Shares(minibatch, processes, accumulate)


def _functions(config: DictConfig) -> Iterator[str]:
    """The names of the Python functions behind the score."""
    nodes = [config.reward]
    while nodes:
        node = nodes.pop()
        name = _given(node, "function")
        if isinstance(name, str) and str(node.get("_target_")).endswith(".TextReward"):
            yield name
        nodes += [node[key] for key in node if isinstance(_given(node, str(key)), DictConfig)]
