"""Whole weights of a model, one after the other, as `phases.named_weights` gives them."""

from collections.abc import Iterable, Iterator
from typing import Self

from torch import Tensor


class WeightStream(Iterator[tuple[str, Tensor]]):
    """Names and whole tensors, one after the other; a tensor is valid until the next one is asked for.

    All processes take part in each tensor, so one that stops early would leave the others waiting for the next. Used as
    a context, the stream runs to its end in any case, also if work on a tensor has failed or none was asked for.
    """

    def __init__(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        """Takes what a strategy streams."""
        self._weights = weights

    def __next__(self) -> tuple[str, Tensor]:
        """The next name and tensor."""
        return next(self._weights)

    def __enter__(self) -> Self:
        """The stream itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Takes part in the tensors that are left."""
        for _ in self._weights:
            pass


def on_cpu(weights: Iterable[tuple[str, Tensor]], *, keep: bool) -> dict[str, Tensor]:
    """Copies streamed weights to the CPU; a process that does not keep them only takes part in the stream."""
    return {name: weight.to("cpu", copy=True) for name, weight in weights if keep}
