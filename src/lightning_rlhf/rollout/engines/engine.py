"""The door to everything that draws responses: ids go in, ids come out, and nothing is padded."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import RandomKey

FinishReason = Literal["stop", "length"]
"""Why a response ended: at a stop token, or at the length limit."""


class Request(NamedTuple):
    """One prompt that is to be answered once."""

    prompt: list[int]
    """Ids; at least one."""
    key: RandomKey
    """Names the random numbers of the response."""


class Token(NamedTuple):
    """One token of a response."""

    id: int
    logprob: float
    """In the distribution that the token was drawn from, in nats."""
    finish_reason: FinishReason | None
    """Set on the last token of a response only."""


class Completion(NamedTuple):
    """The response to a request."""

    request: int
    """The place of the request in the call."""
    ids: list[int]
    """The stop token, if there is one, is the last of them."""
    logprobs: list[float]
    """Of each id in the distribution that it was drawn from, in nats; NaN if the logits of the net are."""
    finish_reason: FinishReason
    weights_version: int
    """The version of the weights that the response was drawn with."""


class RolloutEngine(Protocol):
    """Draws responses with the weights that it was given last.

    The same key gets the same response, in whatever batch, but for rounding where the batch has another shape. Under a
    strategy that shards, all processes make the same calls together, with as many requests as each has, and read an
    iterator to its end.
    """

    shares_weights: bool
    """Whether the engine samples with the very weights that are trained, so that these must be there when it does."""

    @property
    def weights_version(self) -> int | None:
        """The version of the weights that the engine has; None while it has none."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, stop_ids: tuple[int, ...]
    ) -> list[Completion]:
        """Answers all requests.

        Args:
            requests: Prompts with the keys of their random numbers.
            sampling: How to draw.
            stop_ids: Ids that end a response; each of them counts.

        Returns:
            One completion for each request, in the order of the requests.
        """

    def iterate(
        self, requests: Sequence[Request], sampling: Sampling, *, stop_ids: tuple[int, ...]
    ) -> Iterator[Completion]:
        """Yields the completions of `generate`, each as soon as it is finished."""

    def stream(self, request: Request, sampling: Sampling, *, stop_ids: tuple[int, ...]) -> Iterator[Token]:
        """Yields the response to one request token by token."""

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Takes new weights.

        Args:
            weights: Name, as in the net's `state_dict`, and whole tensor of each weight and buffer. All processes read
                the iterator to its end, or none begins: where weights are sharded, each step of it is a collective,
                and a tensor is there only until the next one is asked for. An engine that shares its weights leaves
                the iterator unread.
            version: Which weights these are: the number of optimizer steps behind them. Whatever the engine has
                computed with others, such as cached keys and values of prompts, is void.
        """

    def release(self) -> None:
        """Frees the memory that the engine can do without while nobody samples; nothing if it is free already."""

    def resume(self) -> None:
        """Undoes `release`: the engine has the same weights and version as before."""


BuildEngine = Callable[[nn.Module, torch.device], RolloutEngine]
"""Builds an engine that samples as a net does, which has its configuration too, on the device of the process."""


def in_order(completions: Iterable[Completion], num_requests: int) -> list[Completion]:
    """Completions in the order of their requests.

    Raises:
        RuntimeError: If not every request has been answered exactly once.
    """
    ordered = sorted(completions, key=lambda completion: completion.request)
    if [completion.request for completion in ordered] != list(range(num_requests)):
        answered = [completion.request for completion in ordered]
        raise RuntimeError(f"the engine was given {num_requests} requests, and has answered those at {answered}")
    return ordered
