"""Sizes of models: the weights that each role holds, and those that are called for it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightning_rlhf.distributed.blocks import blocks
from lightning_rlhf.models.adapters.lora import is_part_of_adapter

BACKBONE = "backbone"
"""Name of the model that takes several roles."""

POLICY = "policy"
"""Name of the model whose samples normalise a reward model."""


@dataclass(frozen=True)
class Weights:
    """Sizes of the weights of a model, or of a part of them, at full depth."""

    count: int
    """Number of weights."""
    trained: int
    """Number of trained weights."""
    size: int
    """Bytes of all weights as they were loaded."""
    trained_size: int
    """Bytes of trained weights as they were loaded."""
    block: int
    """Bytes of the weights of each block."""
    blocks: int
    """Number of blocks."""
    largest: int
    """Number of elements of the largest trained tensor."""
    widest: int
    """Number of elements of the largest tensor."""
    multiplied: int
    """Number of weights that are multiplied for each token: all except embeddings that are looked up."""
    width: int
    """Size of the hidden state."""
    dequantized: int
    """Bytes of the largest tensor that is stored in 4 or 8 bits and dequantized as a whole; 0 if there is none."""

    @property
    def outer(self) -> int:
        """Bytes of the weights outside the blocks."""
        return self.size - self.block * self.blocks

    def __add__(self, other: "Weights") -> "Weights":
        """The sizes of both together, as parts of one model."""
        pairs = {name: (value, vars(other)[name]) for name, value in vars(self).items()}
        return Weights(**{name: max(pair) if name in _LARGEST else sum(pair) for name, pair in pairs.items()})


_LARGEST = ("blocks", "largest", "widest", "width", "dequantized")
"""Fields that are maxima and not sums over the parts of a model."""


@dataclass(frozen=True)
class Sizes:
    """The weights of a stage."""

    held: dict[str, Weights]
    """Sizes by role. Each weight counts once: a role of the backbone has only what it adds to the backbone."""
    played: tuple[str, ...] = ()
    """Roles that the backbone takes."""
    policy: Weights | None = None
    """The model whose samples normalise a reward model; None if no reward model is normalised."""
    own_head: bool = False
    """Whether the head of the backbone is a weight of its own, not tied to the embedding. A critic does not call it."""
    in_columns: bool = False
    """Whether the native engine keeps the keys and values of the model that samples in columns of its own."""
    arrangeable: tuple[int, int] = (0, 0)
    """Bytes of the weights of this model that this engine can arrange on a CPU (`models.arranged`): of those that lie
    as (out, in), and of transposed ones."""

    def owner(self, role: str) -> str:
        """Name of the model that is called for a role."""
        return BACKBONE if role in self.played else role

    @cached_property
    def nets(self) -> dict[str, Weights]:
        """Whole models by name."""
        found: dict[str, Weights] = {}
        for role, part in self.held.items():
            name = self.owner(role)
            found[name] = found[name] + part if name in found else part
        return found

    def called(self, role: str) -> Weights | None:
        """The whole model that is called for a role; None if there is none."""
        return self.nets.get(self.owner(role))

    @property
    def generator(self) -> Weights:
        """The model that samples, or, in stages other than PPO, the model that is trained."""
        return self.called("actor") or next(iter(self.nets.values()))

    def samples(self, role: str) -> bool:
        """Whether the model of a role is the one that samples."""
        return self.owner(role) == self.owner("actor")

    @property
    def passed(self) -> dict[str, Weights]:
        """The weights through which a token passes for each role: those of the backbone include those of the role."""
        backbone = self.held.get(BACKBONE)
        own = {role: net for role, net in self.held.items() if self.owner(role) == role != BACKBONE}
        if backbone is None:
            return own
        return own | {role: backbone + self.held[role] if role in self.held else backbone for role in self.played}


_QUANTIZED = {"nf4": 0.5 + 4 / 64, "fp4": 0.5 + 4 / 64, "int8": 1.0}
"""Bytes of a weight. In 4 bits, 64 weights share a scale in fp32 (bitsandbytes, functional.py, `quantize_4bit`)."""


def count(
    net: nn.Module, depth: int, quantization: str | None, members: Iterable[nn.Parameter] | None = None
) -> Weights:
    """Counts the weights of a model. If it has more blocks than were built, they are assumed to be alike.

    Args:
        net: A module that contains a Hugging Face model.
        depth: Number of blocks at full depth.
        quantization: Quantization of the frozen linear layers, which are not quantized yet.
        members: The weights to count; None means all.
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


def _quantized(blocks: Sequence[nn.Module]) -> set[Tensor]:
    """The weights that are stored in 4 or 8 bits."""
    return {
        part.weight
        for block in blocks
        for name, part in block.named_modules()
        if isinstance(part, nn.Linear | Conv1D) and not is_part_of_adapter(name)
    }


def _looked_up(net: nn.Module) -> set[Tensor]:
    """Embeddings that are not also a head."""
    heads = {module.weight for module in net.modules() if isinstance(module, nn.Linear)}
    return {module.weight for module in net.modules() if isinstance(module, nn.Embedding)} - heads


def _config(net: nn.Module) -> PretrainedConfig:
    return next(part.config for part in net.modules() if isinstance(part, PreTrainedModel))
