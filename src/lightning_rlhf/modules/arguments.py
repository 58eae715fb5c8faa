"""Describes the arguments of a module in its checkpoints, so that `load_from_checkpoint` needs only the file.

A checkpoint need not be trusted. Its description therefore holds plain values, and names only classes and functions
of the list below; whatever else a module was built with has to be passed again. `HTTPReward`, `LLMJudge` and
`VllmServerEngine` are not in the list, since a checkpoint of somebody else could name the server to which prompts, a
token or the weights are sent.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import torch
from lightning.pytorch import LightningModule
from transformers import AutoTokenizer

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.demo.gold import gold
from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.models.adapters.lora import Lora
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.locations import bare_tokenizer
from lightning_rlhf.models.scalar import load_reward_model, load_scalar_model
from lightning_rlhf.models.shared import Shared
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.modules.adam import AdamTF
from lightning_rlhf.modules.checkpoint import Checkpoint
from lightning_rlhf.modules.importance import Importance
from lightning_rlhf.modules.low_bit_optimizers import adamw
from lightning_rlhf.modules.optim import Optim
from lightning_rlhf.modules.ppo_loss import PPOLoss
from lightning_rlhf.randomwalks.graph import Graph, Optimality
from lightning_rlhf.rewards.build import AdapterReward, WeightedSum, load_reward
from lightning_rlhf.rewards.function import TextReward
from lightning_rlhf.rewards.rules import ExactAnswer, Length, Pattern
from lightning_rlhf.rewards.sentiment import vader
from lightning_rlhf.rollout.credit import Credit
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.engines.padded import PaddedEngine
from lightning_rlhf.rollout.engines.vllm_in_process import VllmEngine
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.rollout.shaping import RewardShaping
from lightning_rlhf.strategies.optimizers import find_optimizer

M = TypeVar("M", bound=LightningModule)
P = ParamSpec("P")

_KEY = "arguments"
_NAME, _CALL, _UNKNOWN = "_name_", "_call_", "_unknown_"
_KNOWN: dict[str, Callable[..., object]] = {
    known.__name__: known
    for known in (
        *(AdapterReward, Credit, Lora, ModelSource, NativeEngine, Optim, PPOLoss, PaddedEngine, RewardShaping),
        *(Sampling, Shared, WeightedSum, load_causal_lm, load_reward, load_reward_model, load_scalar_model),
        *(AdamTF, adamw, torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD),
        *(Importance, VllmEngine),
        *(TextReward, ExactAnswer, Length, Pattern, Graph, Optimality, gold, vader),
    )
}
_ATTENTION = (None, "eager", "sdpa", "flash_attention_2", "flex_attention")
"""Attention implementations that are not loaded from the hub."""
_IMPORTS = {"Credit": ("advantage",), "PPOLoss": ("policy",), "TextReward": ("function",)}
"""Settings that may name a module to import, as `module:name`."""


def remembers_arguments(init: Callable[Concatenate[M, P], None]) -> Callable[Concatenate[M, P], None]:
    """Decorates the constructor of a module, so that its checkpoints describe the arguments."""

    @functools.wraps(init)
    def remembering(self: M, *args: P.args, **kwargs: P.kwargs) -> None:
        init(self, *args, **kwargs)
        bound = inspect.signature(init).bind(self, *args, **kwargs).arguments
        described = {name: _described(value) for name, value in list(bound.items())[1:]}
        vars(self)[_KEY] = described

    return remembering


def save_arguments(module: LightningModule, checkpoint: Checkpoint) -> None:
    """Adds the description of a module's arguments to a checkpoint."""
    checkpoint[_KEY] = vars(module)[_KEY]


def read_arguments(
    checkpoint: Checkpoint, cls: type[LightningModule], call: str, given: Mapping[str, object]
) -> dict[str, Any]:
    """Builds the arguments of a module from the description in a checkpoint.

    Args:
        checkpoint: The content of the checkpoint.
        cls: The class of the module.
        call: The user's call, for messages.
        given: Arguments that replace the described ones.

    Raises:
        UserError: If the checkpoint describes no such module, or an argument has to be given.
    """
    described, parameters = checkpoint.get(_KEY), inspect.signature(cls).parameters
    if not isinstance(described, dict) or not described.keys() <= parameters.keys():
        raise UserError(f"{call}: this is no checkpoint of a {cls.__name__}")
    found, problems = dict(given), []
    for name in (name for name in described if name not in given):
        try:
            found[name] = _rebuilt(described[name])
        except UserError as error:
            problems.append(f"{call}: pass {name}=…, because {error}")
    raise_problems(problems)
    return found


def _described(value: object) -> object:
    """Turns an argument into plain values."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_described(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _described(item) for key, item in value.items()}
    if isinstance(value, Renderer):
        tokenizer = value.tokenizer
        parts = {"tokenizer": str(tokenizer.name_or_path), "size": len(tokenizer), "stop_ids": list(value.stop_ids)}
        return {_NAME: "Renderer", **parts, "template": tokenizer.chat_template}
    if isinstance(value, functools.partial) and _is_known(value.func):
        call = {"args": _described(value.args), "kwargs": _described(value.keywords)}
        return {_NAME: value.func.__name__, _CALL: call}
    if _is_known(value):
        return {_NAME: cast(type, value).__name__, _CALL: {"args": [], "kwargs": {}}}
    if _is_known(type(value)):
        return {_NAME: type(value).__name__} | {
            name: _described(getattr(value, name)) for name in inspect.signature(type(value)).parameters
        }
    kind = "class" if isinstance(value, type) else "function"
    return {_UNKNOWN: f"the {kind} {value.__name__}" if hasattr(value, "__name__") else type(value).__name__}


def _find(name: str) -> Callable[..., object] | None:
    return _KNOWN.get(name) or find_optimizer(name)


def _is_known(value: object) -> bool:
    """Whether a checkpoint can name a class or function."""
    name = getattr(value, "__name__", None)
    return isinstance(name, str) and _find(name) is value


def _rebuilt(value: object) -> object:
    """Turns plain values back into an argument.

    Raises:
        UserError: If they describe no argument, or one that would run code.
    """
    if isinstance(value, list):
        return [_rebuilt(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _UNKNOWN in value:
        raise UserError(f"a checkpoint cannot describe {value[_UNKNOWN]}")
    parts = {name: part for name, part in value.items() if name not in (_NAME, _CALL)}
    if _NAME not in value:
        return {name: _rebuilt(part) for name, part in parts.items()}
    if value[_NAME] == "Renderer":
        return _rebuilt_renderer(**parts)
    known = _find(str(value[_NAME]))
    if known is None:
        raise UserError(f"the checkpoint names {value[_NAME]}, which is not of this package")
    if _CALL in value:
        call = cast(dict[str, Any], _rebuilt(value[_CALL]))
        try:
            given = inspect.signature(known).bind_partial(*call["args"], **call["kwargs"]).arguments
        except TypeError as error:
            raise UserError(f"{value[_NAME]} of this version does not take its arguments: {error}") from error
        # Whoever calls the builder builds the same as here.
        _check_runs_no_code(str(value[_NAME]), given)
        return functools.partial(known, *call["args"], **call["kwargs"]) if any(call.values()) else known
    _check_runs_no_code(str(value[_NAME]), parts)
    if unknown := parts.keys() - inspect.signature(known).parameters.keys():
        raise UserError(f"its {value[_NAME]} has the settings {', '.join(sorted(unknown))}, which this version has not")
    return known(**{name: _rebuilt(part) for name, part in parts.items()})


def _check_runs_no_code(name: str, parts: Mapping[str, object]) -> None:
    """Refuses settings with which a checkpoint of somebody else could run code."""
    if name == "ModelSource" and parts.get("trust_remote_code"):
        raise UserError(f"the model {parts.get('pretrained')} brings its own Python code (trust_remote_code)")
    for attention in _attentions(parts) if name == "ModelSource" else ():
        if attention not in _ATTENTION:
            raise UserError(f"attn_implementation={attention} would be loaded from the hub")
    for setting in _IMPORTS.get(name, ()):
        if isinstance(named := parts.get(setting), str) and ":" in named:
            raise UserError(f"{setting}={named} is a module of your own, which would be imported")


def _attentions(settings: Mapping[str, object]) -> Iterator[object]:
    """The attention implementations that the settings of a model name, its configuration included."""
    for name, value in settings.items():
        if name.endswith("attn_implementation"):
            yield from value.values() if isinstance(value, Mapping) else (value,)
        elif isinstance(value, Mapping):
            yield from _attentions(value)


def _rebuilt_renderer(tokenizer: str, size: int, stop_ids: list[int], template: str) -> Renderer:
    loaded = bare_tokenizer(tokenizer, "tokenizer")
    try:
        loaded = loaded or AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError) as error:
        raise UserError(f"its tokenizer cannot be loaded from {tokenizer!r}") from error
    if len(loaded) != size:
        raise UserError(f"its tokenizer had {size} tokens, and the one at {tokenizer!r} has {len(loaded)}")
    return Renderer(loaded, template, stop_ids)
