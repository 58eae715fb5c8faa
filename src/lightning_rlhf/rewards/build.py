"""Defines the sources of scores, and builds from them the reward function that PPO calls.

A model may be given as a function that builds it, because sharded strategies must be active while a model is built. A
reward that contains models is itself a module, because strategies look for models to shard in the tree of modules.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

from torch import nn

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.models.adapters.files import load_adapter
from lightning_rlhf.models.adapters.scalar import AdapterScalar
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.names import adapter_folder
from lightning_rlhf.models.scalar import Scalar, ScalarModel, load_scalar_model
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rewards.function import TextReward
from lightning_rlhf.rewards.loaders import loads_reward_model
from lightning_rlhf.rewards.net import NetReward, TextNetReward
from lightning_rlhf.rewards.own_net import RewardNet
from lightning_rlhf.rewards.scoring import FunctionScores, FunctionSum, NetSum, Reward


class LoadedReward(NamedTuple):
    """A trained reward model, together with the renderer of the conversations that it reads."""

    net: Scalar
    renderer: Renderer


class AdapterReward:
    """A reward model that was trained as an adapter of the model that plays all roles (`models.shared.Shared`)."""

    as_adapter: ClassVar[None] = None
    """None, because this class loads an adapter already; see `LoadsRewardModel`."""

    def __init__(self, path: str, template: str | None = None, setting: str = "reward.path") -> None:
        """Stores where the reward model is.

        Args:
            path: Folder of its export, which has the adapter beside it.
            template: Chat template of its training: `plain`, `raw`, the path of a file, or Jinja text; None takes the
                tokenizer's.
            setting: Name of `path` in error messages.
        """
        self.path, self.template, self.setting = path, template, setting

    def on(self, backbone: Backbone) -> LoadedReward:
        """Adds the adapter to the model.

        Args:
            backbone: The model that plays all roles.

        Raises:
            UserError: If there is no adapter, or if it is not a reward model or belongs to another model.
        """
        net, names = backbone.net, cast(Any, backbone.net).peft_config
        name = f"reward_{len(names)}"
        try:
            head = load_adapter(net, adapter_folder(Path(self.path)), name)
        except UserError as error:
            raise UserError(f"{self.setting}={self.path}: {error}; or set roles=separate") from error
        if head is None:
            raise UserError(f"{self.setting}={self.path}: its adapter has no head, so it is no reward model")
        source = ModelSource(pretrained=self.path, setting=self.setting)
        renderer = Renderer(source.load_tokenizer(), self.template, stop_ids=source.stop_ids())
        return LoadedReward(AdapterScalar(backbone, name, head.weight, head.bias), renderer)


class WeightedSum:
    """A weighted sum of other scores. Each part is logged under its name.

    Example:
        >>> WeightedSum(
        ...     parts={"model": load_reward("models/reward"), "short": TextReward(is_short)},
        ...     weights={"model": 1.0, "short": 0.5},
        ... )
    """

    def __init__(self, parts: Mapping[str, "RewardSource"], weights: Mapping[str, float]) -> None:
        """Stores the parts and their weights, which have the same names.

        Args:
            parts: Sources of scores, as `as_reward` accepts them.
            weights: Weight of each part; a negative weight makes the part a penalty.

        Raises:
            UserError: If the names differ, a weight is not finite, or there is no part.
        """
        of_torch = nn.ModuleDict()
        raise_problems(
            ["parts is empty: a sum needs a part"] * (not parts)
            + [f"weights.{name} is not set: give the weight of parts.{name}" for name in parts if name not in weights]
            + [f"weights.{name}: there is no part of this name" for name in weights if name not in parts]
            + [f"weights.{name}={weight}: must be finite" for name, weight in weights.items() if not _finite(weight)]
            + [f"parts.{name}: choose another name" for name in parts if "." in name or hasattr(of_torch, name)]
        )
        self.parts, self.weights = dict(parts), dict(weights)


RewardSource = (
    ScalarModel
    | LoadedReward
    | AdapterReward
    | RewardNet
    | TextReward
    | WeightedSum
    | Callable[[], ScalarModel | LoadedReward | RewardNet]
)
"""The types that the argument `reward` of PPO accepts."""


@loads_reward_model(as_adapter=AdapterReward)
def load_reward(
    path: str, dtype: str = "float32", template: str | None = None, setting: str = "reward.path"
) -> LoadedReward:
    """Loads an exported reward model with its own tokenizer; the export must contain a trained head.

    Args:
        path: Folder of the export, or hub name of a `…ForSequenceClassification` model with one label.
        dtype: Data type of its weights.
        template: Chat template of its training: `plain`, `raw`, the path of a file, or Jinja text; None takes the
            tokenizer's.
        setting: Name of `path` in error messages.

    Raises:
        UserError: If the folder is not a trained reward model.
    """
    source = ModelSource(pretrained=path, dtype=dtype, setting=setting)
    net = load_scalar_model(source, "trained")
    return LoadedReward(net, Renderer(source.load_tokenizer(), template, stop_ids=source.stop_ids()))


def as_reward(source: RewardSource, renderer: Renderer, backbone: Backbone | None = None) -> Reward:
    """Turns any source of scores into a function, building models where necessary.

    Args:
        source: A `ScalarModel`, which reads the actor's ids; a `LoadedReward`, which reads the ids if its tokenizer and
            template are those of the actor, and otherwise reads the text; a `RewardNet`; a function that builds one of
            these; a `TextReward`; an `AdapterReward`; or a `WeightedSum` of any of them.
        renderer: The renderer of the actor.
        backbone: The model that plays all roles, if there is one.

    Returns:
        A function; if it contains models, it is an `nn.Module` that contains them.

    Raises:
        UserError: If the source is none of these, or cannot be built.
    """
    if isinstance(source, WeightedSum):
        parts = {name: _part(part, renderer, backbone) for name, part in source.parts.items()}
        holds_nets = any(isinstance(part, nn.Module) for part in parts.values())
        return NetSum(parts, source.weights) if holds_nets else FunctionSum(parts, source.weights)
    if isinstance(source, TextReward):
        return FunctionScores(source, renderer)
    if isinstance(source, AdapterReward):
        if backbone is None:
            raise UserError(f"{source.setting}={source.path}: an AdapterReward needs a model that plays all roles")
        source = source.on(backbone)
    if isinstance(source, RewardNet):
        return source.build(renderer)
    if isinstance(source, ScalarModel):
        return NetReward(source)
    if isinstance(source, LoadedReward):
        if _reads_alike(source.renderer, renderer):
            return NetReward(source.net)
        return TextNetReward(source.net, source.renderer, renderer.stop_ids)
    if isinstance(source, nn.Module) or not _takes_nothing(source):
        raise UserError(
            f"reward={source!r:.80}: neither a reward model nor a function without arguments that builds one; a "
            "function of prompts and responses goes into TextReward(…), and a module of your own into RewardNet(…)"
        )
    return as_reward(source(), renderer)


def _part(source: RewardSource, renderer: Renderer, backbone: Backbone | None) -> Reward:
    """Turns a part of a sum into a function, which may leave out scores if it is a function of texts."""
    if isinstance(source, TextReward):
        return FunctionScores(source, renderer, part_of_sum=True)
    return as_reward(source, renderer, backbone)


def _reads_alike(first: Renderer, second: Renderer) -> bool:
    """Checks whether both renderers turn a conversation into the same ids."""
    one, other = first.tokenizer, second.tokenizer
    return (
        one.get_vocab() == other.get_vocab()
        and one.chat_template == other.chat_template
        # Chat templates refer to these tokens by name.
        and (one.bos_token, one.eos_token) == (other.bos_token, other.eos_token)
    )


def _takes_nothing(source: object) -> bool:
    """Checks whether an object can be called without arguments."""
    try:
        inspect.signature(source).bind()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def _finite(weight: object) -> bool:
    return isinstance(weight, int | float) and math.isfinite(weight)
