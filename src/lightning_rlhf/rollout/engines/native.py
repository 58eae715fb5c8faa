"""The engine that samples from the trained model itself, and spends no step on a response that has ended.

Prompts are read many at a time, in their order, and each prompt once for all its samples. A response that has ended
leaves the batch at once; while prompts are waiting, another response takes its place, and otherwise the batch becomes
narrower. Keys and values lie in one memory that is written in place (`models.column_cache`).

The random numbers of a response depend on its key alone, as those of `padded.PaddedEngine` do, so both engines draw the
same tokens except where rounding decides: a batch of another size uses other kernels.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from lightning_rlhf.distributed.phases import finished_everywhere
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.arranged import arranged
from lightning_rlhf.models.attention import without_flash
from lightning_rlhf.models.column_cache import is_supported
from lightning_rlhf.rollout.engines.batch import Batch
from lightning_rlhf.rollout.engines.engine import Completion, Decode, Request, Token, completed, generate_by_iterating
from lightning_rlhf.rollout.engines.padded import PaddedEngine
from lightning_rlhf.rollout.engines.stops import Stops
from lightning_rlhf.rollout.engines.waiting import Waiting, call_along
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import keyed_uniforms

log = logging.getLogger(__name__)


class NativeEngine:
    """Samples from the model itself, with a batch that is always full of responses that go on.

    It is a `rollout.engines.engine.RolloutEngine`, which describes the methods. A model that keeps anything but keys
    and values, such as the state of a recurrent layer, is sampled from by a `PaddedEngine` instead.
    """

    shares_weights = True
    generate = generate_by_iterating

    def __init__(self, net: nn.Module, device: torch.device, *, max_rows: int = 64, prefill_tokens: int = 4096) -> None:
        """Stores the model.

        Args:
            net: A causal language model that is called as those of Hugging Face are, and is in evaluation mode whenever
                the engine samples.
            device: The device of the model.
            max_rows: Number of responses that are sampled at a time.
            prefill_tokens: Number of prompt tokens, padding counted, that are read at a time; a longer prompt is read
                alone.

        Raises:
            UserError: If a number is not positive.
        """
        for name, number in (("max_rows", max_rows), ("prefill_tokens", prefill_tokens)):
            if number < 1:
                raise UserError(f"rollout.engine.{name}={number}: must be positive")
        self.net, self.device, self.max_rows, self.prefill_tokens = net, device, max_rows, prefill_tokens
        self.weights_version = 0
        self._padded: PaddedEngine | None = None
        if not is_supported(net):
            log.info("%s keeps more than keys and values: it samples in padded batches", type(net).__name__)
            self._padded = PaddedEngine(net, device, micro_batch_size=max_rows)

    def iterate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        stop_ids: tuple[int, ...],
        decode: Decode | None = None,
    ) -> Iterator[Completion]:
        """Yields each response when it has ended; see `RolloutEngine.iterate`."""
        return completed(self._tokens(requests, sampling, Stops(sampling, stop_ids, decode)), self.weights_version)

    def stream(
        self, request: Request, sampling: Sampling, *, stop_ids: tuple[int, ...], decode: Decode | None = None
    ) -> Iterator[Token]:
        """Yields the tokens of one response as they are drawn; see `RolloutEngine.stream`."""
        for _, token in self._tokens([request], sampling, Stops(sampling, stop_ids, decode)):
            yield token

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Stores the version only: the model has the weights, and no keys and values outlive a call."""
        self.weights_version = version

    def release(self) -> None:
        """Does nothing, because the cache is freed when all requests of a call are answered."""

    def resume(self) -> None:
        """Does nothing; see `release`."""

    def _tokens(self, requests: Sequence[Request], sampling: Sampling, stops: Stops) -> Iterator[tuple[int, Token]]:
        if self._padded is not None:
            return self._padded.tokens(requests, sampling, stops)
        return self._native_tokens(requests, sampling, stops)

    @torch.no_grad()
    def _native_tokens(
        self, requests: Sequence[Request], sampling: Sampling, stops: Stops
    ) -> Iterator[tuple[int, Token]]:
        """Yields each token with the index of its request."""
        with without_flash(self.net):
            yield from self._drawn(requests, sampling, stops)

    def _drawn(self, requests: Sequence[Request], sampling: Sampling, stops: Stops) -> Iterator[tuple[int, Token]]:
        numbers = keyed_uniforms([request.key for request in requests], sampling.max_new_tokens)
        # Apple's GPUs have no fp64.
        numbers = numbers.to("cpu" if self.device.type == "mps" else self.device)
        waiting = Waiting(self.net, self.device, requests, self.prefill_tokens, self.max_rows)
        longest = max((len(request.prompt) for request in requests), default=0)
        entropy = any(request.entropy for request in requests)
        rows = min(self.max_rows, len(requests))
        batch = Batch(self.net, numbers, sampling, stops, rows, longest, entropy=entropy)
        with arranged(self.net, rows, sampling.max_new_tokens):
            while True:
                # Where all processes must call the model together, a process that has no use for a call takes part too.
                can_read = bool(waiting) and batch.has_room
                if not finished_everywhere(not can_read):
                    tokens = batch.begin(waiting.read()) if can_read else None
                elif not finished_everywhere(not batch.sampled):
                    tokens = batch.step() if batch.sampled else None
                else:
                    return
                if tokens is None:
                    call_along(self.net, self.device)
                else:
                    yield from tokens
