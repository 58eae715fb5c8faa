"""Prompts that wait for a place in the batch. They are read many at a time, each prompt once for all its samples.

Shapes: b different prompts that are read together, P tokens of the longest of them, V vocabulary.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from lightning_rlhf.data.batches import chunks, pad
from lightning_rlhf.models.forward import last_logits, position_arguments
from lightning_rlhf.rollout.engines.engine import Request


class Read(NamedTuple):
    """Prompts that the model has read."""

    prompts: list[list[int]]
    """The b prompts."""
    cache: Cache
    """Their keys and values, padded at the left."""
    logits: Tensor
    """(b, V) logits of the token after each prompt."""
    requests: list[int]
    """Indices of the requests that have one of these prompts."""
    places: list[int]
    """For each of these requests, the row of its prompt."""


class Waiting:
    """Prompts that the model has not read yet.

    They are read in the order of the requests, so that the first requests are answered first, and their rewards can be
    computed early. Of as many prompts as a batch has places, the longest is read first, because prompts of about equal
    length need little padding.
    """

    def __init__(
        self, net: nn.Module, device: torch.device, requests: Sequence[Request], prefill_tokens: int, max_rows: int
    ) -> None:
        """Finds the requests that have the same prompt.

        Args:
            net: The model that reads the prompts.
            device: The device of the model.
            requests: The requests.
            prefill_tokens: Number of tokens, padding counted, that are read at a time; a longer prompt is read alone.
            max_rows: Number of places in a batch, and of prompts that are read at a time.
        """
        self.net, self.device, self.prefill_tokens, self.max_rows = net, device, prefill_tokens, max_rows
        askers: dict[tuple[int, ...], list[int]] = {}
        for number, request in enumerate(requests):
            askers.setdefault(tuple(request.prompt), []).append(number)
        groups = [list(askers.items())[rows] for rows in chunks(len(askers), max_rows)]
        self._unread = deque(asked for group in groups for asked in sorted(group, key=lambda item: -len(item[0])))

    def __len__(self) -> int:
        """Number of different prompts that have not been read."""
        return len(self._unread)

    def read(self) -> Read:
        """Reads the next prompts."""
        taken = [self._unread.popleft()]
        width = len(taken[0][0])
        while self._unread and len(taken) < self.max_rows:
            width = max(width, len(self._unread[0][0]))
            if (len(taken) + 1) * width > self.prefill_tokens:
                break
            taken.append(self._unread.popleft())
        prompts = [list(prompt) for prompt, _ in taken]
        ids, mask = (part.to(self.device) for part in pad(prompts, side="left"))
        # Layers with a window keep all columns too: rows that are added later have their windows elsewhere.
        cache = DynamicCache()
        logits, _ = last_logits(
            self.net, ids, 1, past_key_values=cache, use_cache=True, **position_arguments(self.net, mask)
        )
        requests = [number for _, numbers in taken for number in numbers]
        places = [place for place, (_, numbers) in enumerate(taken) for _ in numbers]
        return Read(prompts, cache, logits[:, -1], requests, places)


def call_along(net: nn.Module, device: torch.device) -> None:
    """Calls the model with one token and drops the result, because other processes need this one's weights."""
    ids = torch.zeros(1, 1, dtype=torch.long, device=device)
    last_logits(net, ids, 1, use_cache=False, **position_arguments(net, ids == 0))
