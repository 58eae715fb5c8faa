"""Sizes of nets: what is held of each role, and what is called for it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightning_rlhf.distributed.blocks import blocks
from lightning_rlhf.models.adapters.lora import is_part_of_adapter

BACKBONE = "backbone"
"""What the net is called that plays several roles."""

POLICY = "policy"
"""What the net is called whose samples a reward model is normalised on."""


@dataclass(frozen=True)
class Weights:
    """Sizes of a net's weights, or of a part of them, at its whole depth."""

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

    def __add__(self, other: "Weights") -> "Weights":
        """Both, as parts of one net."""
        pairs = {name: (value, vars(other)[name]) for name, value in vars(self).items()}
        return Weights(**{name: max(pair) if name in _LARGEST else sum(pair) for name, pair in pairs.items()})


_LARGEST = ("blocks", "largest", "widest", "width", "dequantized")
"""What parts of a net do not add up."""


@dataclass(frozen=True)
class Sizes:
    """The weights of a stage."""

    held: dict[str, Weights]
    """By role, each weight once: of a role that the backbone plays, what it adds to that."""
    played: tuple[str, ...] = ()
    """Roles that the backbone plays."""
    policy: Weights | None = None
    """The net whose samples a reward model is normalised on: there only then."""
    own_head: bool = False
    """Whether the backbone's head is a weight of its own, which a critic does not call, and no embedding."""

    def owner(self, role: str) -> str:
        """Name of the net that is called for a role."""
        return BACKBONE if role in self.played else role

    @cached_property
    def nets(self) -> dict[str, Weights]:
        """Whole nets, by their name."""
        found: dict[str, Weights] = {}
        for role, part in self.held.items():
            name = self.owner(role)
            found[name] = found[name] + part if name in found else part
        return found

    def called(self, role: str) -> Weights | None:
        """The whole net that is called for a role; None: there is none."""
        return self.nets.get(self.owner(role))

    @property
    def generator(self) -> Weights:
        """The net that samples; in other stages than PPO, the one that is trained."""
        return self.called("actor") or next(iter(self.nets.values()))

    def samples(self, role: str) -> bool:
        """Whether a role is played by the net that samples."""
        return self.owner(role) == self.owner("actor")

    @property
    def passed(self) -> dict[str, Weights]:
        """What a token goes through, for each role: of the backbone, with what is the role's own."""
        backbone = self.held.get(BACKBONE)
        own = {role: net for role, net in self.held.items() if self.owner(role) == role != BACKBONE}
        if backbone is None:
            return own
        return own | {role: backbone + self.held[role] if role in self.held else backbone for role in self.played}


_QUANTIZED = {"nf4": 0.5 + 4 / 64, "fp4": 0.5 + 4 / 64, "int8": 1.0}
"""Bytes of a number; in 4 bits each 64 of them share a scale in fp32 (bitsandbytes, functional.py, `quantize_4bit`)."""


def count(
    net: nn.Module, depth: int, quantization: str | None, members: Iterable[nn.Parameter] | None = None
) -> Weights:
    """Counts the weights of a net, whose blocks are alike if it has more of them than were built.

    Args:
        net: With a net of Hugging Face's in it.
        depth: How many blocks it has.
        quantization: Of the linear layers that are not trained, which are not quantized yet.
        members: Which weights to count; None: all.
    """
    weights = list(net.parameters() if members is None else members)
    parts = blocks(net)
    times = depth / len(parts)
    in_blocks = {weight for block in parts for weight in block.parameters()}
    inner = [weight for weight in weights if weight in in_blocks]
    outer = [weight for weight in weights if weight not in in_blocks]
    small = _quantized(parts) if quantization else set()
    looked_up = _looked_up(net)

    def size(weight: nn.Parameter) -> float:
        return weight.numel() * _QUANTIZED[quantization] if quantization and weight in small else weight.nbytes

    def total(measure: Callable[[nn.Parameter], float]) -> int:
        return round(sum(map(measure, inner)) * times + sum(map(measure, outer)))

    return Weights(
        count=total(nn.Parameter.numel),
        trained=total(lambda weight: weight.numel() * weight.requires_grad),
        size=total(size),
        trained_size=total(lambda weight: weight.nbytes * weight.requires_grad),
        block=round(sum(map(size, inner))) // len(parts),
        blocks=depth,
        largest=max((weight.numel() for weight in weights if weight.requires_grad), default=0),
        multiplied=total(lambda weight: weight.numel() * (weight not in looked_up)),
        dequantized=max((weight.nbytes for weight in weights if weight in small), default=0),
        width=_config(net).get_text_config().hidden_size,
        widest=max((weight.numel() for weight in weights), default=0),
    )


def _quantized(blocks: Sequence[nn.Module]) -> set[Any]:
    """The weights that are kept in 4 or 8 bits."""
    return {
        part.weight
        for block in blocks
        for name, part in block.named_modules()
        if isinstance(part, nn.Linear | Conv1D) and not is_part_of_adapter(name)
    }


def _looked_up(net: nn.Module) -> set[Any]:
    """Embeddings that are no head as well."""
    heads = {module.weight for module in net.modules() if isinstance(module, nn.Linear)}
    return {module.weight for module in net.modules() if isinstance(module, nn.Embedding)} - heads


def _config(net: nn.Module) -> Any:
    return next(part.config for part in net.modules() if isinstance(part, PreTrainedModel))
