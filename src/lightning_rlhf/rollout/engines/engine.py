"""The interface of everything that draws responses: ids go in, ids come out, and nothing is padded."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import RandomKey

FinishReason = Literal["stop", "length"]
"""Why a response ended: at a stop token, or at the length limit."""


Decode = Callable[[Sequence[int]], str]
"""Turns ids into the text that they stand for, with all its space and all special tokens."""


class Request(NamedTuple):
    """One prompt that is to be answered once."""

    prompt: list[int]
    """Token ids; at least one."""
    key: RandomKey
    """Names the random numbers of the response."""
    entropy: bool = False
    """Whether the completion shall contain entropies; an engine that cannot compute them leaves them out."""


class Token(NamedTuple):
    """One token of a response."""

    id: int
    logprob: float
    """Log-prob in the distribution that the token was drawn from, in nats."""
    finish_reason: FinishReason | None
    """Why the response ended; None unless this is its last token."""
    entropy: float | None = None
    """Entropy of the distribution that the token was drawn from, in nats; None if it was not asked for."""


class Completion(NamedTuple):
    """The response to a request."""

    request: int
    """Index of the request in the call."""
    ids: list[int]
    """Token ids; the stop token, if there is one, is the last."""
    logprobs: list[float]
    """Log-prob of each id in the distribution that it was drawn from, in nats; NaN if the model's logits are NaN."""
    finish_reason: FinishReason
    weights_version: int
    """Version of the weights that the response was drawn with."""
    entropies: list[float] | None = None
    """Entropy of the distribution of each id, in nats; None if not asked for, or if the engine cannot compute it."""


class RolloutEngine(Protocol):
    """Draws responses with the weights that it was given last.

    The same key gives the same response in any batch, apart from rounding where the shape of the batch differs. Under a
    strategy that shards, all processes make the same calls together and read each iterator to its end; each process may
    have a different number of requests.
    """

    shares_weights: bool
    """Whether the engine samples with the trained model itself, whose weights must then be present while it samples."""

    @property
    def weights_version(self) -> int | None:
        """Version of the weights that the engine has; None while it has no weights."""

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        stop_ids: tuple[int, ...],
        decode: Decode | None = None,
    ) -> list[Completion]:
        """Answers all requests.

        Args:
            requests: Prompts with the keys of their random numbers.
            sampling: Settings of the sampling distribution.
            stop_ids: Token ids, any of which ends a response.
            decode: Turns ids into text; needed if `sampling` has texts that end a response.

        Returns:
            One completion for each request, in the order of the requests.
        """

    def iterate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        stop_ids: tuple[int, ...],
        decode: Decode | None = None,
    ) -> Iterator[Completion]:
        """Yields the completions of `generate`, each as soon as it is finished."""

    def stream(
        self, request: Request, sampling: Sampling, *, stop_ids: tuple[int, ...], decode: Decode | None = None
    ) -> Iterator[Token]:
        """Yields the response to one request token by token."""

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Takes new weights.

        Args:
            weights: Name, as in the model's `state_dict`, and whole tensor of each weight and buffer. Either all
                processes read the iterator to its end, or none reads it: where weights are sharded, each step of the
                iterator is a collective, and a tensor exists only until the next one is requested. An engine that
                shares its weights leaves the iterator unread.
            version: Number of optimizer steps that led to these weights. What the engine has computed with other
                weights, such as cached keys and values of prompts, becomes invalid.
        """

    def release(self) -> None:
        """Frees the memory that the engine needs only for sampling; does nothing if it is free already."""

    def resume(self) -> None:
        """Undoes `release`: afterwards the engine has the same weights and version as before."""


BuildEngine = Callable[[nn.Module, torch.device], RolloutEngine]
"""Builds an engine that samples from a given model, on the device of the process."""


def completed(tokens: Iterable[tuple[int, Token]], weights_version: int) -> Iterator[Completion]:
    """Puts the tokens of each response together, and yields it with its last token.

    Args:
        tokens: Each token with the index of its request, in the order in which they are drawn.
        weights_version: Version of the weights that the tokens are drawn with.
    """
    drawn: dict[int, list[Token]] = defaultdict(list)
    for request, token in tokens:
        drawn[request].append(token)
        if token.finish_reason is not None:
            ids, logprobs, _, entropies = zip(*drawn.pop(request), strict=True)
            known = None if None in entropies else list(entropies)
            yield Completion(request, list(ids), list(logprobs), token.finish_reason, weights_version, known)


def in_order(completions: Iterable[Completion], num_requests: int) -> list[Completion]:
    """Sorts completions into the order of their requests.

    Raises:
        RuntimeError: If not every request has been answered exactly once.
    """
    ordered = sorted(completions, key=lambda completion: completion.request)
    if [completion.request for completion in ordered] != list(range(num_requests)):
        answered = [completion.request for completion in ordered]
        raise RuntimeError(f"the engine was given {num_requests} requests, and has answered those at {answered}")
    return ordered


def generate_by_iterating(
    self: RolloutEngine,
    requests: Sequence[Request],
    sampling: Sampling,
    *,
    stop_ids: tuple[int, ...],
    decode: Decode | None = None,
) -> list[Completion]:
    """Answers all requests; see `RolloutEngine.generate`.

    It is the method `generate` of an engine whose class contains `generate = generate_by_iterating`.
    """
    return in_order(self.iterate(requests, sampling, stop_ids=stop_ids, decode=decode), len(requests))
