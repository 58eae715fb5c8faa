"""What a reward source may be, and how it becomes what PPO calls.

Nets may be given as functions that build them, since sharded strategies want to be there when a net is built. A reward
that holds nets is a module with these nets in it, since what is to be sharded is looked for in the tree of modules.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import nn

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.experience import Answers, Scores
from lightning_rlhf.models.adapters.files import adapter_folder, load_adapter
from lightning_rlhf.models.adapters.scalar import AdapterScalar
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.scalar import Scalar, ScalarModel, load_scalar_model
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rewards.function import TextReward
from lightning_rlhf.rewards.loaders import loads_reward_model
from lightning_rlhf.rewards.net import NetReward, TextNetReward, ended
from lightning_rlhf.rewards.tokens import token_texts

Reward = Callable[[Answers], Scores]
"""Scores a batch of answers."""


class LoadedReward(NamedTuple):
    """A trained reward model, and how it reads conversations."""

    net: Scalar
    renderer: Renderer


class AdapterReward:
    """A reward model that was trained as an adapter of the net which plays all roles (`models.shared.Shared`)."""

    as_adapter: ClassVar[None] = None
    """It is one already, see `LoadsRewardModel`."""

    def __init__(self, path: str, template: str | None = None, setting: str = "reward.path") -> None:
        """Says where it is.

        Args:
            path: Folder of its export, beside which the adapter is.
            template: Chat template that it was trained with: `plain`, `raw`, or Jinja text; None takes the tokenizer's.
            setting: What messages call `path`.
        """
        self.path, self.template, self.setting = path, template, setting

    def on(self, backbone: Backbone) -> LoadedReward:
        """Adds the adapter to the net.

        Raises:
            UserError: If there is none, or it is no reward model, or of another net.
        """
        net, names = backbone.net, cast(Any, backbone.net).peft_config
        name = f"reward_{len(names)}"
        try:
            head = load_adapter(net, adapter_folder(Path(self.path)), name)
        except UserError as error:
            raise UserError(f"{self.setting}={self.path}: {error}; or take roles=separate") from error
        if head is None:
            raise UserError(f"{self.setting}={self.path}: its adapter has no head, so it is no reward model")
        source = ModelSource(pretrained=self.path, setting=self.setting)
        renderer = Renderer(source.load_tokenizer(), self.template, stop_ids=source.stop_ids())
        return LoadedReward(AdapterScalar(backbone, name, head.weight, head.bias), renderer)


class WeightedSum:
    """A score that is a weighted sum of other scores; each part is logged by its name.

    Example:
        >>> WeightedSum(
        ...     parts={"model": load_reward("models/reward"), "short": TextReward(is_short)},
        ...     weights={"model": 1.0, "short": 0.5},
        ... )
    """

    def __init__(self, parts: Mapping[str, "RewardSource"], weights: Mapping[str, float]) -> None:
        """Takes the parts and their weights, under the same names.

        Args:
            parts: What `as_reward` takes.
            weights: Of each part; a negative one punishes.

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
    ScalarModel | LoadedReward | AdapterReward | TextReward | WeightedSum | Callable[[], ScalarModel | LoadedReward]
)
"""What PPO's `reward` may be."""


@loads_reward_model(as_adapter=AdapterReward)
def load_reward(
    path: str, dtype: str = "float32", template: str | None = None, setting: str = "reward.path"
) -> LoadedReward:
    """Loads an exported reward model with its own tokenizer; a head that would be drawn at random is an error.

    Args:
        path: Folder of the export, or hub name of a `…ForSequenceClassification` model with one label.
        dtype: Of its weights.
        template: Chat template that it was trained with: `plain`, `raw`, or Jinja text; None takes the tokenizer's.
        setting: What messages call `path`.

    Raises:
        UserError: If the folder is not a trained reward model.
    """
    source = ModelSource(pretrained=path, dtype=dtype, setting=setting)
    net = load_scalar_model(source, "trained")
    return LoadedReward(net, Renderer(source.load_tokenizer(), template, stop_ids=source.stop_ids()))


def as_reward(source: RewardSource, renderer: Renderer, backbone: Backbone | None = None) -> Reward:
    """Builds what is still to be built, and gives all sources one form.

    Args:
        source: A `ScalarModel`, which reads the actor's ids; what `load_reward` returns, which reads them if its
            tokenizer and template are the actor's, and else the text; a function that builds one of these; a
            `TextReward`; an `AdapterReward`; or a `WeightedSum` of any of them.
        renderer: The actor's.
        backbone: The net that plays all roles, if one does.

    Returns:
        A function; if it holds nets, an `nn.Module` with these in it.

    Raises:
        UserError: If the source is none of these, or cannot be built.
    """
    if isinstance(source, WeightedSum):
        parts = {name: as_reward(part, renderer, backbone) for name, part in source.parts.items()}
        holds_nets = any(isinstance(part, nn.Module) for part in parts.values())
        return NetSum(parts, source.weights) if holds_nets else partial(add_up, parts, source.weights)
    if isinstance(source, TextReward):
        return partial(score_texts, source, renderer)
    if isinstance(source, AdapterReward):
        if backbone is None:
            raise UserError(f"{source.setting}={source.path}: an AdapterReward needs a net that plays all roles")
        source = source.on(backbone)
    if isinstance(source, ScalarModel):
        return NetReward(source)
    if isinstance(source, LoadedReward):
        if _reads_alike(source.renderer, renderer):
            return NetReward(source.net)
        return TextNetReward(source.net, source.renderer, renderer.stop_ids)
    if isinstance(source, nn.Module) or not _takes_nothing(source):
        raise UserError(
            f"reward={source!r:.80}: neither a reward model nor a function without arguments that builds one; a "
            "function of prompts and responses goes into TextReward(…)"
        )
    return as_reward(source(), renderer)


class NetSum(nn.Module):
    """A weighted sum with nets among its parts."""

    def __init__(self, parts: Mapping[str, Reward], weights: Mapping[str, float]) -> None:
        """Takes parts and weights under the same names."""
        super().__init__()
        nets = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
        self.nets, self.weights = nn.ModuleDict(nets), weights
        self.functions = {name: part for name, part in parts.items() if name not in nets}

    def forward(self, answers: Answers) -> Scores:
        """The sum."""
        return add_up({**self.nets, **self.functions}, self.weights, answers)


def add_up(parts: Mapping[str, Reward], weights: Mapping[str, float], answers: Answers) -> Scores:
    """Scores a batch by each part, and sums scores of responses and scores of tokens."""
    scores = {name: part(answers) for name, part in parts.items()}
    whole = torch.stack([weights[name] * score.whole for name, score in scores.items()]).sum(0)
    tokens = [weights[name] * score.tokens for name, score in scores.items() if score.tokens is not None]
    totals = {name: score.total for name, score in scores.items()}
    return Scores(whole, totals, torch.stack(tokens).sum(0) if tokens else None)


def score_texts(function: TextReward, renderer: Renderer, answers: Answers) -> Scores:
    """Scores a batch by a function of texts, which can ask for `finished` and `response_tokens` beside the data."""
    sequences, mask = answers.sequences, answers.sequences.response_mask
    finished = ended(sequences, renderer.stop_ids)
    columns = [{**row, "finished": end} for row, end in zip(answers.columns, finished, strict=True)]
    if "response_tokens" in function.columns:
        for row, ids, counts in zip(columns, sequences.responses, mask, strict=True):
            row["response_tokens"] = token_texts(renderer, ids[counts].tolist())
    whole, tokens = function.score(answers.prompts, answers.responses, columns, mask.sum(1).tolist())
    scores = Scores(torch.tensor(whole, dtype=torch.float32, device=mask.device), {})
    if tokens is None:
        return scores
    numbers = torch.tensor(list(chain.from_iterable(tokens)), dtype=torch.float32, device=mask.device)
    return scores._replace(tokens=torch.zeros_like(mask, dtype=torch.float32).masked_scatter(mask, numbers))


def _reads_alike(first: Renderer, second: Renderer) -> bool:
    """Whether both make the same ids of a conversation."""
    one, other = first.tokenizer, second.tokenizer
    return (
        one.get_vocab() == other.get_vocab()
        and one.chat_template == other.chat_template
        # Templates write these by name.
        and (one.bos_token, one.eos_token) == (other.bos_token, other.eos_token)
    )


def _takes_nothing(source: object) -> bool:
    """Whether something can be called without arguments."""
    try:
        inspect.signature(source).bind()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def _finite(weight: object) -> bool:
    return isinstance(weight, int | float) and math.isfinite(weight)
