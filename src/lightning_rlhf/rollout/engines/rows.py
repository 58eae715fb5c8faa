"""What the device holds of the responses that are being sampled, and one step of them.

Shapes: S rows for which there is memory, B rows in use, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from lightning_rlhf.models.column_cache import ColumnCache, takes_positions
from lightning_rlhf.models.columns import first_columns, most_columns
from lightning_rlhf.models.forward import last_logits
from lightning_rlhf.rollout.engines.draw import Draws, draw, seen_tokens
from lightning_rlhf.rollout.engines.waiting import Read
from lightning_rlhf.rollout.sampling import Sampling


class NewRow(NamedTuple):
    """A response that gets a row."""

    place: int
    """Row of its prompt in the cache that has read it."""
    prompt: list[int]
    request: int
    """Row of its random numbers."""
    first: int
    """Its first token."""


class Rows:
    """The rows in use are the first ones, in the order in which they joined until one of them is removed."""

    def __init__(
        self,
        net: nn.Module,
        read: Read,
        numbers: Tensor,
        sampling: Sampling,
        max_rows: int,
        longest: int,
        *,
        entropy: bool,
    ) -> None:
        """Takes memory.

        Args:
            net: The model that samples.
            read: The first prompts that have been read.
            numbers: (requests, max_new_tokens) random numbers in (0, 1].
            sampling: Settings of the sampling distribution.
            max_rows: S.
            longest: Number of tokens of the longest prompt.
            entropy: Whether to compute entropies.
        """
        self.net, self.sampling, self.entropy = net, sampling, entropy
        self.numbers, self.max_new_tokens = numbers.flatten(), numbers.shape[1]
        lengths = longest, sampling.max_new_tokens
        self.cache = ColumnCache(net, read.cache, max_rows, first_columns(*lengths), most_columns(*lengths))
        self.takes_positions = takes_positions(net)
        device = read.logits.device
        self.ids, self.positions = (torch.zeros(max_rows, 1, dtype=torch.long, device=device) for _ in range(2))
        self.next_number = torch.zeros(max_rows, dtype=torch.long, device=numbers.device)
        self.seen = seen_tokens(max_rows * [[]], read.logits, sampling)

    def admit(self, prefix: Cache, new: Sequence[NewRow]) -> None:
        """Adds rows.

        Args:
            prefix: Keys and values of their prompts.
            new: The rows.
        """
        rows = slice(self.cache.columns.num_rows, self.cache.columns.num_rows + len(new))
        self.cache.admit(prefix, [row.place for row in new], [len(row.prompt) for row in new])
        self.ids[rows, 0] = torch.tensor([row.first for row in new]).to(self.ids)
        self.positions[rows, 0] = torch.tensor([len(row.prompt) for row in new]).to(self.ids)
        next_numbers = torch.tensor([row.request * self.max_new_tokens + 1 for row in new])
        self.next_number[rows] = next_numbers.to(self.next_number)
        if self.seen is not None:
            occurred = seen_tokens([[*row.prompt, row.first] for row in new], self.seen, self.sampling)
            assert occurred is not None
            self.seen[rows] = occurred

    def step(self) -> Draws:
        """Reads the last token of each row, and draws the next one."""
        num_rows = self.cache.columns.num_rows
        ids, positions, numbers = self.ids[:num_rows], self.positions[:num_rows], self.next_number[:num_rows]
        arguments = {"position_ids": positions} if self.takes_positions else {}
        logits, _ = last_logits(
            self.net, ids, 1, past_key_values=self.cache, use_cache=True, attention_mask=self.cache.mask(), **arguments
        )
        seen = None if self.seen is None else self.seen[:num_rows]
        draws = draw(logits[:, -1], self.numbers[numbers], self.sampling, seen, entropy=self.entropy)
        self.cache.advance()
        ids[:, 0] = draws.ids
        positions += 1
        numbers += 1
        if seen is not None:
            seen.scatter_(1, ids, True)
        return draws

    def remove(self, row: int) -> None:
        """Removes a row; the last row takes its place."""
        last = self.cache.columns.num_rows - 1
        self.cache.remove(row)
        if row != last:
            for held in (self.ids, self.positions, self.next_number, self.seen):
                if held is not None:
                    held[row] = held[last]
