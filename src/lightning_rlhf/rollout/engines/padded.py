"""The reference engine: samples from the trained model itself, in batches of padded prompts, with a key-value cache.

The key of a response determines its random numbers, whichever process draws it and in whatever batch. The distribution
of requests over processes and micro-batches therefore changes a response only where rounding changes the logits,
because batches of different sizes use different kernels. In fp32 that is rare: 0 to 2 of 256 responses change. In bf16
and with int8 weights it is not: in bf16, 20 to 70% of the responses change, because a single different token changes
all tokens after it.

Shapes: B rows, P prompt tokens (padded at the left), R new tokens.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad as widen

from lightning_rlhf.data.batches import chunks, pad
from lightning_rlhf.distributed.phases import finished_everywhere
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.forward import last_logits, position_arguments
from lightning_rlhf.rollout.engines.draw import draw, seen_tokens
from lightning_rlhf.rollout.engines.engine import Completion, Decode, Request, Token, completed, generate_by_iterating
from lightning_rlhf.rollout.engines.stops import Stops
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import keyed_uniforms


class PaddedEngine:
    """Samples from the model itself, in batches of padded prompts with a key-value cache.

    It is a `rollout.engines.engine.RolloutEngine`, which describes the methods; an engine of your own needs the same
    ones. Finished rows are removed from a batch once they make up half of it.
    """

    shares_weights = True
    generate = generate_by_iterating

    def __init__(self, net: nn.Module, device: torch.device, *, micro_batch_size: int = 64) -> None:
        """Stores the model.

        Args:
            net: A causal language model that is called as those of Hugging Face are, and is in evaluation mode whenever
                the engine samples.
            device: The device of the model.
            micro_batch_size: Number of requests that are answered at a time.

        Raises:
            UserError: If `micro_batch_size` is not positive.
        """
        if micro_batch_size < 1:
            raise UserError(f"rollout.engine.micro_batch_size={micro_batch_size}: must be positive")
        self.net, self.device, self.micro_batch_size = net, device, micro_batch_size
        self.weights_version = 0

    def iterate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        stop_ids: tuple[int, ...],
        decode: Decode | None = None,
    ) -> Iterator[Completion]:
        """Yields each response when it has ended; see `RolloutEngine.iterate`."""
        return completed(self.tokens(requests, sampling, Stops(sampling, stop_ids, decode)), self.weights_version)

    def stream(
        self, request: Request, sampling: Sampling, *, stop_ids: tuple[int, ...], decode: Decode | None = None
    ) -> Iterator[Token]:
        """Yields the tokens of one response as they are drawn; see `RolloutEngine.stream`."""
        for _, token in self.tokens([request], sampling, Stops(sampling, stop_ids, decode)):
            yield token

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Stores the version only, because the model already has the weights."""
        self.weights_version = version

    def release(self) -> None:
        """Does nothing, because a cache is freed with its micro-batch."""

    def resume(self) -> None:
        """Does nothing; see `release`."""

    def tokens(self, requests: Sequence[Request], sampling: Sampling, stops: Stops) -> Iterator[tuple[int, Token]]:
        """Yields each token with the index of its request, one micro-batch after the other."""
        numbers = keyed_uniforms([request.key for request in requests], sampling.max_new_tokens)
        left = deque(chunks(len(requests), self.micro_batch_size))
        entropy = any(request.entropy for request in requests)
        # All micro-batches have one width, so that their number alone changes a response, and by rounding only.
        width = max((len(request.prompt) for request in requests), default=1)
        while not finished_everywhere(not left):
            # Where all processes must call the model together, a process that has no requests left takes part too.
            rows = left.popleft() if left else slice(0, 0)
            prompts = [request.prompt for request in requests[rows]]
            for row, token in self._decode(prompts, width, numbers[rows], sampling, stops, entropy=entropy):
                yield rows.start + row, token

    @torch.no_grad()
    def _decode(
        self,
        prompts: list[list[int]],
        width: int,
        numbers: Tensor,
        sampling: Sampling,
        stops: Stops,
        *,
        entropy: bool,
    ) -> Iterator[tuple[int, Token]]:
        """Yields each token of a micro-batch with the row that it belongs to.

        Args:
            prompts: B lists of ids; if there are none, the model is called as long as other processes call it.
            width: Columns that the prompts are padded to.
            numbers: (B, R) random numbers in (0, 1], one for each token that may be drawn.
            sampling: Settings of the sampling distribution.
            stops: The ends of responses.
            entropy: Whether to compute the entropy of each token's distribution.
        """
        open_rows, responses = set(range(len(prompts))), [list[int]() for _ in prompts]
        if not prompts:
            prompts, numbers = [[0]], torch.ones(1, sampling.max_new_tokens, dtype=torch.float64)
        new_ids, mask = (widen(part, (width - part.shape[1], 0)).to(self.device) for part in pad(prompts, side="left"))
        # Apple's GPUs have no fp64.
        numbers = numbers.to("cpu" if self.device.type == "mps" else self.device)
        rows, cache, seen = list(range(len(prompts))), None, None
        for step in range(sampling.max_new_tokens):
            positions = position_arguments(self.net, mask, num_new=new_ids.shape[1])
            logits, output = last_logits(self.net, new_ids, 1, past_key_values=cache, use_cache=True, **positions)
            cache = output.past_key_values
            seen = seen_tokens(prompts, logits, sampling) if step == 0 else seen
            draws = draw(logits[:, -1], numbers[:, step], sampling, seen, entropy=entropy)
            drawn = draws.ids
            if seen is not None:
                seen.scatter_(1, drawn[:, None], True)
            # Finished rows continue to draw until they are removed from the batch.
            for row, (number, logprob, *more) in zip(rows, draws.fetched(), strict=True):
                if row in open_rows:
                    responses[row].append(int(number))
                    reason = stops.reason(responses[row])
                    if reason is not None:
                        open_rows.remove(row)
                    yield row, Token(responses[row][-1], logprob, reason, *more)
            if finished_everywhere(not open_rows):
                break
            if 0 < len(open_rows) <= len(rows) // 2 and hasattr(cache, "batch_select_indices"):
                kept = torch.tensor([place for place, row in enumerate(rows) if row in open_rows], device=self.device)
                cache.batch_select_indices(kept)
                mask, drawn, numbers = mask[kept], drawn[kept], numbers[kept.to(numbers.device)]
                seen = None if seen is None else seen[kept]
                rows = [row for row in rows if row in open_rows]
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            new_ids = drawn[:, None]
