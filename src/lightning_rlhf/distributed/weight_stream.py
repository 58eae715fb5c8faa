"""Streams of the whole weights of a model, which `phases.named_weights` returns."""

from collections.abc import Iterable, Iterator
from typing import Self

from torch import Tensor


class WeightStream(Iterator[tuple[str, Tensor]]):
    """Iterates over names and whole tensors; a tensor is valid until the next one is requested.

    All processes take part in each tensor, so a process that stops early would leave the others waiting. As a context,
    the stream always runs to its end, even if an error has occurred or no tensor was requested.
    """

    def __init__(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        """Stores the iterator of a strategy."""
        self._weights = weights

    def __next__(self) -> tuple[str, Tensor]:
        """Returns the next name and tensor."""
        return next(self._weights)

    def __enter__(self) -> Self:
        """Returns the stream itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Takes part in the remaining tensors."""
        for _ in self._weights:
            pass


def on_cpu(weights: Iterable[tuple[str, Tensor]], *, keep: bool) -> dict[str, Tensor]:
    """Copies streamed weights to the CPU; a process that does not keep them only takes part in the stream."""
    return {name: weight.to("cpu", copy=True) for name, weight in weights if keep}
