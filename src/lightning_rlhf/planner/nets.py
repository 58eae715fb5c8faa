"""The nets of a stage on fake tensors: the real classes, built by the real builders, without a byte of weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightning_rlhf.errors import UserError
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.roles import SeparateRoles
from lightning_rlhf.models.scalar import load_scalar_model
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.trace import DEPTH
from lightning_rlhf.rewards.net import NetReward
from lightning_rlhf.strategies.blocks import blocks


@dataclass(frozen=True)
class Weights:
    """Sizes of a net's weights at its whole depth."""

    count: int
    trained: int
    """How many of them are trained."""
    size: int
    """Bytes, as they were loaded."""
    trained_size: int
    block: int
    """Of `size`, in each block."""
    blocks: int
    largest: int
    """The largest weight that is trained, in numbers."""
    widest: int
    """The largest weight of all, in numbers."""
    multiplied: int
    """How many are multiplied with each token: all but embeddings that are looked up."""
    width: int
    """Of the hidden state."""
    dequantized: int
    """Bytes of the largest weight that is kept in 4 or 8 bits and computes as a whole tensor; 0: none is."""

    @property
    def outer(self) -> int:
        """Of `size`, outside the blocks."""
        return self.size - self.block * self.blocks


@dataclass
class Nets:
    """The nets of a stage, with at most `DEPTH` blocks, and what they are at their whole depth."""

    module: nn.Module
    """Holds them all."""
    members: dict[str, nn.Module]
    """By role; a net that plays several is there once."""
    depths: dict[str, int]
    """Blocks of the net behind each role, at its whole depth."""
    weights: dict[str, Weights]
    """By role, as `members`."""


def architecture(source: ModelSource) -> dict[str, Any]:
    """The configuration of a source, as plain values: of a folder that is here, else of `model.config`, else the hub's.

    Raises:
        UserError: If there is none.
    """
    is_here = source.pretrained is not None and Path(source.pretrained).expanduser().exists()
    known = source if is_here or not source.config else replace(source, pretrained=None, tokenizer="none")
    config = known.hf_config()
    return {key: value for key, value in config.to_dict().items() if key not in ("dtype", "transformers_version")}


def shallow(source: ModelSource) -> tuple[ModelSource, int]:
    """The same kind of net with random weights and no more than `DEPTH` blocks; and how many blocks there are."""
    fields = architecture(source)
    config = replace(source, pretrained=None, config=fields, tokenizer="none").hf_config()
    depth = config.num_hidden_layers
    kinds = getattr(config, "layer_types", None)
    if depth > DEPTH and (not kinds or len(set(kinds)) == 1):
        fields[config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = DEPTH
        if kinds:
            fields["layer_types"] = kinds[:DEPTH]
    # bitsandbytes has no fake tensors; `_weights` counts what is quantized.
    plain = replace(source, pretrained=None, config=fields, tokenizer="none", compile=False, quantization=None)
    return plain, depth


@contextmanager
def built(job: Job) -> Iterator[Nets]:
    """In it the nets of a stage exist."""
    with FakeTensorMode(), _replacing_weights():
        module = _module(job)
        depth = {"actor": shallow(job.model)[1]}
        for role, source in (("critic", job.critic), ("reward", job.reward)):
            if source is not None:
                depth[role] = shallow(source)[1]
        depth["reference"] = depth["actor"]
        members = {name: net for name, net in module.named_children() if next(net.parameters(), None) is not None}
        sources = {"critic": job.critic, "reward": job.reward}
        weights = {
            name: _weights(net, depth[name], (sources.get(name) or job.model).quantization)
            for name, net in members.items()
        }
        if job.dtype is not None and not job.autocast:
            for parameter in module.parameters():
                parameter.data = parameter.data.to(job.dtype)
        yield Nets(module, members, depth, weights)


@contextmanager
def _replacing_weights() -> Iterator[None]:
    """In it a module that is moved or cast gets new weights.

    torch swaps fake ones in place, which fails where anything else refers to them (nn/modules/module.py, `_apply`);
    peft moves each of its layers.
    """

    def apply(self: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        for part in self.modules():
            for name, weight in part._parameters.items():
                if weight is not None and (changed := function(weight)) is not weight:
                    part._parameters[name] = nn.Parameter(changed.detach(), weight.requires_grad)
        return self

    before = nn.Module._apply
    nn.Module._apply = apply  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._apply = before  # type: ignore[method-assign]


def _module(job: Job) -> nn.Module:
    model = shallow(job.model)[0]
    if job.shared:
        raise UserError("roles=shared: the planner knows separate nets only")
    if job.stage == "ppo":
        critic = load_scalar_model(shallow(job.critic)[0], "zero") if job.critic else None
        reward = NetReward(load_scalar_model(shallow(job.reward)[0], "zero")) if job.reward else None
        return SeparateRoles(
            actor=load_causal_lm(model),
            reference=load_causal_lm(model.frozen),
            critic=critic,
            reward=reward or _no_scores,
        )
    nets: dict[str, nn.Module] = {"actor": load_causal_lm(model)}
    if job.stage == "reward":
        nets = {"actor": load_scalar_model(model, "normal")}
    elif job.stage == "dpo" and job.reference:
        nets["reference"] = load_causal_lm(model.frozen).requires_grad_(False).eval()
    return nn.ModuleDict(nets)


def _no_scores(answers: Any) -> Any:
    return None


_QUANTIZED = {"nf4": 0.5 + 4 / 64, "fp4": 0.5 + 4 / 64, "int8": 1.0}
"""Bytes of a number; in 4 bits each 64 of them share a scale in fp32 (bitsandbytes, functional.py, `quantize_4bit`)."""


def _weights(net: nn.Module, depth: int, quantization: str | None) -> Weights:
    """Counts the weights of a net, whose blocks are alike if it has more of them than were built."""
    members = blocks(net)
    times = depth / len(members)
    inner = {weight for block in members for weight in block.parameters()}
    outer = [weight for weight in net.parameters() if weight not in inner]

    small: set[Any] = set()
    if quantization is not None:
        linear = [part for block in members for part in block.modules() if isinstance(part, nn.Linear | Conv1D)]
        small = {part.weight for part in linear if not part.weight.requires_grad}

    def size(weight: nn.Parameter) -> float:
        return weight.numel() * _QUANTIZED[quantization] if weight in small and quantization else weight.nbytes

    def total(measure: Any) -> int:
        return round(sum(map(measure, inner)) * times) + sum(map(measure, outer))

    sizes = [weight.numel() for weight in net.parameters() if weight.requires_grad]
    heads = {module.weight for module in net.modules() if isinstance(module, nn.Linear)}
    looked_up = {module.weight for module in net.modules() if isinstance(module, nn.Embedding)} - heads
    return Weights(
        count=total(nn.Parameter.numel),
        trained=total(lambda weight: weight.numel() * weight.requires_grad),
        size=total(size),
        trained_size=total(lambda weight: weight.nbytes * weight.requires_grad),
        block=round(sum(map(size, inner))) // len(members),
        blocks=depth,
        largest=max(sizes, default=0),
        multiplied=total(lambda weight: weight.numel() * (weight not in looked_up)),
        dequantized=max((weight.nbytes for weight in small), default=0),
        width=_config(net).get_text_config().hidden_size,
        widest=max(weight.numel() for weight in net.parameters()),
    )


def _config(net: nn.Module) -> Any:
    return next(part.config for part in net.modules() if isinstance(part, PreTrainedModel))
