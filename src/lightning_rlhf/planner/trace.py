"""Counts the bytes of live tensors while a model runs on fake tensors, which have shapes but no numbers.

The blocks of a model cut a pass into segments: the part before the first block, each block, the part after the last
block, and the same for the backward pass. All blocks are alike, so a model with three blocks shows what a model with
eighty blocks needs.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from lightning_rlhf.distributed.blocks import blocks

_INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten._index_put_impl_.default, torch.ops.aten.index_put_.default}
DEPTH = 3
"""Number of blocks that suffices to predict any number of them: the first, one in the middle, and the last."""


Part = Literal["input", "block", "head"]
"""A part of a model: embeddings and masks, one of its blocks, or everything after the last block (up to log-probs)."""


@dataclass(frozen=True)
class Segment:
    """A piece of a pass. All sizes are in bytes."""

    role: str
    """The role whose model computes."""
    part: Part
    backward: bool
    kept: int
    """Memory that remains after the segment; negative if the segment frees more than it allocates."""
    work: int
    """The peak within the segment, above what existed before it."""
    gradients: int
    """Gradients of weights that remain after the segment."""
    work_with_gradients: int
    """The peak within the segment, above what existed before it, including the gradients made so far."""


class Trace(TorchDispatchMode):
    """Counts the bytes of live tensors, and cuts the work into segments."""

    def __init__(self, module: nn.Module) -> None:
        """Starts at zero bytes.

        Args:
            module: The module that holds the models, whose weights are not counted.
        """
        super().__init__()
        kept = [*module.parameters(), *module.buffers()]
        self.seen = {id(tensor.untyped_storage()): 0 for tensor in kept}
        self.live = self.gradients = self.most = self.most_with_gradients = 0
        self.segments: list[Segment] = []
        self.role = ""
        self.part: Part = "input"
        self.backward = False
        self._begin()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operator, and counts its results."""
        if function is torch.ops.aten._local_scalar_dense.default:
            # Fake tensors have no numbers to test. False means, for instance, that not all tokens are real, so that
            # the model builds a mask for padding.
            return False
        if function in _INDEXED:
            args = (args[0], [part for index in args[1] for part in _as_numbers(index)], *args[2:])
        outputs = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return outputs

    def enter(self, role: str, part: Part) -> None:
        """Ends a segment, and begins one of the forward or backward pass of a role."""
        self._end()
        self.role, self.part = role, part
        self._begin()

    def forget(self) -> None:
        """Drops the segments so far. Live tensors stay counted."""
        self.segments = []
        self._begin()

    def finish(self) -> list[Segment]:
        """Ends the last segment, and returns all of them."""
        self._end()
        return [segment for segment in self.segments if segment.role]

    def keep(self, gradient: Tensor) -> None:
        """Counts a tensor as the gradient of a weight from now on."""
        key = id(gradient.untyped_storage())
        self.live -= self.seen.get(key, 0)
        self.seen[key] = 0
        self.gradients += gradient.numel() * gradient.element_size()
        self._measure()

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self.seen or not size:
            return
        self.seen[key] = size
        self.live += size
        weakref.finalize(storage, self._free, key).atexit = False
        self._measure()

    def _free(self, key: int) -> None:
        self.live -= self.seen.pop(key, 0)

    def _measure(self) -> None:
        self.most = max(self.most, self.live)
        self.most_with_gradients = max(self.most_with_gradients, self.live + self.gradients)

    def _begin(self) -> None:
        self.before = self.live, self.gradients
        self.most, self.most_with_gradients = self.live, self.live + self.gradients

    def _end(self) -> None:
        live, gradients = self.before
        self.segments.append(
            Segment(
                self.role,
                self.part,
                self.backward,
                kept=self.live - live,
                work=self.most - live,
                gradients=self.gradients - gradients,
                work_with_gradients=self.most_with_gradients - live - gradients,
            )
        )


def _as_numbers(index: Tensor | None) -> list[Tensor | None]:
    """Converts an index to numbers. A mask is treated as if it were True everywhere."""
    if index is None or index.dtype != torch.bool:
        return [index]
    return [torch.zeros(index.numel(), dtype=torch.long) for _ in index.shape]


@contextmanager
def cuts(trace: Trace, net: nn.Module, role: str | None) -> Iterator[None]:
    """Context in which the blocks of a model cut a trace, in the forward and in the backward pass.

    Args:
        trace: The trace of the work that calls the model.
        net: A model with blocks.
        role: The role of the model; None means the current role of the trace.
    """
    members = blocks(net)

    def before(index: int, block: nn.Module, args: Any, kwargs: Any) -> None:
        if trace.backward:
            # Checkpointing computes activations again.
            return
        hidden = args[0] if args else kwargs["hidden_states"]
        plays = role or trace.role
        _when_ready(hidden, trace, plays, "input" if index == 0 else "block")
        trace.enter(plays, "block")

    def after(block: nn.Module, args: Any, output: Any) -> None:
        if not trace.backward:
            _when_ready(output if isinstance(output, Tensor) else output[0], trace, trace.role, "block")
            trace.enter(trace.role, "head")

    handles = [
        block.register_forward_pre_hook(partial(before, index), with_kwargs=True) for index, block in enumerate(members)
    ]
    handles.append(members[-1].register_forward_hook(after))
    with _until_the_end(handles):
        yield


@contextmanager
def gradients(trace: Trace, module: nn.Module) -> Iterator[None]:
    """Context in which a trace knows which tensors are gradients of the weights of a module."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    with _until_the_end([w.register_post_accumulate_grad_hook(lambda w: trace.keep(w.grad)) for w in trained]):
        yield


@contextmanager
def _until_the_end(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _when_ready(tensor: Tensor, trace: Trace, role: str, part: Part) -> None:
    """Cuts when the gradient of a tensor is ready, which is when the backward pass of its producer begins."""
    if tensor.requires_grad:
        tensor.register_hook(lambda gradient: trace.enter(role, part))


def stretched(segments: list[Segment], depths: dict[str, int]) -> list[Segment]:
    """Extends segments to models that have more blocks than those that were run.

    Args:
        segments: Segments of models with `DEPTH` blocks, or with all of their blocks.
        depths: Number of blocks of the model of each role.
    """
    found: list[Segment] = []
    for (role, part, _), group in groupby(segments, lambda s: (s.role, s.part, s.backward)):
        members = list(group)
        if part == "block" and len(members) == DEPTH < depths[role]:
            first, middle, last = members
            members = [first, *[middle] * (depths[role] - 2), last]
        found += members
    return found
