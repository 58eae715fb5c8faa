"""The reference engine: samples with the net of the module, in rectangles of padded prompts, with a key-value cache.

The random numbers of a response are those of its key, whichever process draws it and in whatever batch. How requests
are spread over processes and micro-batches therefore changes a response only where rounding changes the net's logits,
since batches of another size go through other kernels. In fp32 that is rare: of 256 responses, 0 to 2 come out
differently. In bf16 and with weights in int8 nothing is promised: in bf16, 20 to 70% of them do, since one other token
changes all that follow.

Shapes: B rows, P prompt tokens (padded at the left), R new tokens.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from lightning_rlhf.data.batches import chunks, pad
from lightning_rlhf.distributed.phases import finished_everywhere
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.forward import last_logits, position_arguments
from lightning_rlhf.rollout.engines.draw import draw
from lightning_rlhf.rollout.engines.engine import Completion, FinishReason, Request, Token, in_order
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import keyed_uniforms


class PaddedEngine:
    """See `RolloutEngine`; rows that are finished leave the batch once half of it is done."""

    shares_weights = True

    def __init__(self, net: nn.Module, device: torch.device, *, micro_batch_size: int = 64) -> None:
        """Takes the net.

        Args:
            net: A causal language model, in evaluation mode when it is asked; one of Hugging Face's, or called like
                one.
            device: Where the net computes.
            micro_batch_size: Requests that are answered at a time.

        Raises:
            UserError: If the size is not positive.
        """
        if micro_batch_size < 1:
            raise UserError(f"rollout.engine.micro_batch_size={micro_batch_size}: must be positive")
        self.net, self.device, self.micro_batch_size = net, device, micro_batch_size
        self.weights_version = 0

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, stop_ids: tuple[int, ...]
    ) -> list[Completion]:
        """See `RolloutEngine`."""
        return in_order(self.iterate(requests, sampling, stop_ids=stop_ids), len(requests))

    def iterate(
        self, requests: Sequence[Request], sampling: Sampling, *, stop_ids: tuple[int, ...]
    ) -> Iterator[Completion]:
        """See `RolloutEngine`."""
        drawn: list[list[Token]] = [[] for _ in requests]
        for place, token in self._tokens(requests, sampling, stop_ids):
            drawn[place].append(token)
            if token.finish_reason is not None:
                ids, logprobs, _ = zip(*drawn[place], strict=True)
                yield Completion(place, list(ids), list(logprobs), token.finish_reason, self.weights_version)

    def stream(self, request: Request, sampling: Sampling, *, stop_ids: tuple[int, ...]) -> Iterator[Token]:
        """See `RolloutEngine`."""
        for _, token in self._tokens([request], sampling, stop_ids):
            yield token

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Notes the version only: the net has the weights already."""
        self.weights_version = version

    def release(self) -> None:
        """Does nothing: a cache lives no longer than the micro-batch that it belongs to."""

    def resume(self) -> None:
        """Does nothing, see `release`."""

    def _tokens(
        self, requests: Sequence[Request], sampling: Sampling, stop_ids: tuple[int, ...]
    ) -> Iterator[tuple[int, Token]]:
        """Yields each token with the place of its request, a micro-batch after the other."""
        numbers = keyed_uniforms([request.key for request in requests], sampling.max_new_tokens)
        left = deque(chunks(len(requests), self.micro_batch_size))
        while not finished_everywhere(not left):
            # Where each call of the net is one of all processes, one without requests goes along with the others.
            rows = left.popleft() if left else slice(0, 0)
            prompts = [request.prompt for request in requests[rows]]
            for row, token in self._decode(prompts, numbers[rows], sampling, stop_ids):
                yield rows.start + row, token

    @torch.no_grad()
    def _decode(
        self, prompts: list[list[int]], numbers: Tensor, sampling: Sampling, stop_ids: tuple[int, ...]
    ) -> Iterator[tuple[int, Token]]:
        """Yields each token of a micro-batch with the row that it belongs to.

        Args:
            prompts: B lists of ids; without any, the net is called as long as other processes call it.
            numbers: (B, R) in (0, 1], one for each token that may be drawn.
            sampling: How to draw.
            stop_ids: Ids that end a response.
        """
        open_rows = set(range(len(prompts)))
        if not prompts:
            prompts, numbers = [[0]], torch.ones(1, sampling.max_new_tokens, dtype=torch.float64)
        new_ids, mask = (tensor.to(self.device) for tensor in pad(prompts, side="left"))
        # Apple's GPUs have no fp64.
        numbers = numbers.to("cpu" if self.device.type == "mps" else self.device)
        rows, cache = list(range(len(prompts))), None
        for step in range(sampling.max_new_tokens):
            positions = position_arguments(self.net, mask, num_new=new_ids.shape[1])
            logits, output = last_logits(self.net, new_ids, 1, past_key_values=cache, use_cache=True, **positions)
            cache = output.past_key_values
            drawn, logprobs = draw(logits[:, -1], numbers[:, step], sampling)
            is_last = step == sampling.max_new_tokens - 1
            # Rows that are finished draw on until they leave the batch.
            for row, token, logprob in zip(rows, drawn.tolist(), logprobs.tolist(), strict=True):
                if row in open_rows:
                    reason: FinishReason | None = "stop" if token in stop_ids else "length" if is_last else None
                    if reason is not None:
                        open_rows.remove(row)
                    yield row, Token(token, logprob, reason)
            if finished_everywhere(not open_rows):
                break
            if 0 < len(open_rows) <= len(rows) // 2 and hasattr(cache, "batch_select_indices"):
                kept = torch.tensor([place for place, row in enumerate(rows) if row in open_rows], device=self.device)
                cache.batch_select_indices(kept)
                mask, drawn, numbers = mask[kept], drawn[kept], numbers[kept.to(numbers.device)]
                rows = [row for row in rows if row in open_rows]
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            new_ids = drawn[:, None]
