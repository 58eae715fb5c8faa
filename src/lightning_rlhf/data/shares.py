"""The share of a minibatch: the rows that each rank processes in each accumulated part.

This arithmetic is in this module alone. The loaders of demonstrations, pairs and experience use it, and so do the
checks before a run, its table of batch sizes, and `plan`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Self, TypeVar

from lightning_rlhf.data.adapting import adapted
from lightning_rlhf.data.budget import Load, cut, parts_within
from lightning_rlhf.errors import UserError, raise_problems

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

Row = TypeVar("Row")


@dataclass(frozen=True)
class Shares:
    """Equal shares of the ranks and their accumulated parts in each minibatch; the rows of rank 0's parts come first.

    Attributes:
        minibatch_size: Number of rows of one optimizer step, over all ranks and accumulated parts.
        processes: Number of ranks that share a minibatch.
        num_parts: Number of parts of a rank's share, which are accumulated into one optimizer step.
        rank: The rank whose share is computed.
        max_tokens: Limit of the tokens of a part, padding included, under which parts have rows of similar length; with
            None, parts have equally many rows.
    """

    minibatch_size: int
    processes: int
    num_parts: int
    rank: int = 0
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        """Checks that the shares are equal, or that there are enough rows for them if they need not be equal.

        Raises:
            UserError: If the minibatch does not divide among ranks and accumulated parts.
        """
        shares = self.processes * self.num_parts
        # Parts of similar length have different numbers of rows anyway.
        wrong = self.minibatch_size < shares if self.max_tokens else self.minibatch_size % shares > 0
        if self.minibatch_size < 1 or wrong:
            raise UserError(
                f"minibatch_size={self.minibatch_size} is not divisible by {shares} = {self.processes} processes x "
                f"accumulate_grad_batches={self.num_parts}: change one of them"
            )

    @classmethod
    def of(cls, minibatch_size: int, trainer: "Trainer", max_tokens: int | None = None) -> Self:
        """Makes the shares for the ranks and accumulated parts of a trainer.

        Raises:
            UserError: If the minibatch does not divide among them.
        """
        return cls(minibatch_size, trainer.world_size, trainer.accumulate_grad_batches, trainer.global_rank, max_tokens)

    def check_budget(self, loads: Sequence[Load]) -> None:
        """Checks that the parts are small enough for the token budget, if there is one.

        Args:
            loads: The rows of the stage, and texts that are mixed in if there are any.

        Raises:
            UserError: If more parts are needed.
        """
        if self.max_tokens is None:
            return
        needed = parts_within(self.max_tokens, loads, self.processes, self.num_parts)
        if needed > self.num_parts:
            raise UserError(
                f"max_tokens_per_micro_batch={self.max_tokens}: accumulate_grad_batches={self.num_parts} leaves more "
                f"tokens in a micro-batch: set accumulate_grad_batches={needed} in the trainer"
            )

    @property
    def micro_batch_size(self) -> int:
        """Number of rows that one rank processes at a time, on average if they are of different length."""
        return rows_at_a_time(self.minibatch_size, self.processes, self.num_parts)

    def place(self, position: int) -> tuple[int, int]:
        """Returns the numbers of minibatch and part at a position, which counts this rank's micro-batches."""
        return divmod(position, self.num_parts)

    def minibatch(self, rows: list[Row], number: int) -> list[Row]:
        """Returns the rows of a minibatch, over all ranks and parts; the last one of an epoch may be smaller."""
        return rows[number * self.minibatch_size :][: self.minibatch_size]

    def dealt(self, minibatch: list[int], lengths: Sequence[int]) -> list[list[int]]:
        """Deals the rows of a minibatch so that its parts, on all ranks, have about equally many tokens.

        The longest rows are dealt first, each to the part with the fewest tokens so far that has room for it. With a
        limit of tokens, rows of similar length become a part, and parts that ranks compute at the same time are of
        similar length. The loss is divided by the size of the whole minibatch, so the gradient stays the same.

        Args:
            minibatch: Row numbers.
            lengths: Length of each row of the data, by its number, in tokens.

        Returns:
            The rows of each part; rank 0's parts come first. With a limit, some are empty if there are too few rows.
        """
        num_parts = self.processes * self.num_parts
        if num_parts == 1:
            return [minibatch]
        if self.max_tokens is not None:
            found = cut([lengths[row] for row in minibatch], num_parts)
            places = [part * self.processes + rank for rank in range(self.processes) for part in range(self.num_parts)]
            return [[minibatch[index] for index in found[place]] for place in places]
        rooms = [len(part) for part in self.in_order(minibatch)]
        parts: list[list[int]] = [[] for _ in rooms]
        lightest = [(0, number) for number, room in enumerate(rooms) if room]
        for row in sorted(minibatch, key=lambda row: -lengths[row]):
            tokens, number = heappop(lightest)
            parts[number].append(row)
            if len(parts[number]) < rooms[number]:
                heappush(lightest, (tokens + int(lengths[row]), number))
        return parts

    def in_order(self, minibatch: list[Row]) -> list[list[Row]]:
        """Returns the rows of each part if they are shared in order; the last parts are shorter if the rows run out."""
        width = self.width(minibatch)
        return [minibatch[first : first + width] for first in range(0, self.processes * self.num_parts * width, width)]

    def mine(self, parts: list[list[Row]], part: int) -> list[Row]:
        """Returns this rank's rows in one part of a minibatch."""
        return parts[self.rank * self.num_parts + part]

    def width(self, minibatch: Sequence[Row]) -> int:
        """Number of rows of each part of a minibatch on each rank; smaller minibatches have smaller parts."""
        return -(-len(minibatch) // (self.processes * self.num_parts))

    def row(self, position: int) -> int:
        """Counts the rows in the minibatches that are complete at a position."""
        return position // self.num_parts * self.minibatch_size

    def position(self, row: int, progress: Mapping[str, int]) -> int:
        """Converts a number of rows from a checkpoint into a position; the size of a minibatch may have changed.

        Args:
            row: Number of rows that had been read when the checkpoint was written.
            progress: The saved progress, which contains the former `minibatch_size`.

        Raises:
            UserError: If no minibatch begins after this number of rows.
        """
        if row % self.minibatch_size:
            raise UserError(
                f"minibatch_size was {progress['minibatch_size']} when the checkpoint was written and is "
                f"{self.minibatch_size} now, and no minibatch of that size begins after the {row} rows that were "
                f"read: continue with a size that divides {row}"
            )
        return row // self.minibatch_size * self.num_parts


def rows_at_a_time(minibatch_size: int, processes: int, num_parts: int) -> int:
    """Number of rows of a minibatch that one rank processes at a time, if the rank's share has `num_parts` parts."""
    return -(-minibatch_size // (processes * num_parts))


def filled(minibatch_size: int, num_rows: int, shares: int) -> int:
    """Chooses the size of a minibatch that the rows can fill.

    Args:
        minibatch_size: The wanted size.
        num_rows: Number of rows to train on.
        shares: Number of equal shares of a minibatch: ranks times accumulated parts.

    Returns:
        The wanted size, or, if there are too few rows for it, the largest size that divides into the shares.

    Raises:
        UserError: If there are fewer rows than shares.
    """
    if num_rows >= minibatch_size:
        return minibatch_size
    size = num_rows // shares * shares
    if not size:
        raise UserError(
            f"minibatch_size={minibatch_size}, but there are only {num_rows} rows to train on, fewer than the {shares} "
            "= processes x accumulate_grad_batches that share a minibatch: give more data, or change these"
        )
    adapted(f"minibatch_size={minibatch_size}: there are only {num_rows} rows to train on, so a minibatch has {size}")
    return size


def shares_of(trainer: "Trainer | None") -> int:
    """Counts the equal shares of a minibatch under a trainer; 1 if there is none yet."""
    return 1 if trainer is None else trainer.world_size * trainer.accumulate_grad_batches


def check_sizes(rollout_batch_size: int, minibatch_size: int, processes: int, num_samples_per_prompt: int = 1) -> None:
    """Checks that a rollout divides into minibatches, among ranks, and into groups of responses to one prompt.

    Raises:
        UserError: If it does not.
    """
    divisors = {
        f"minibatch_size={minibatch_size}": minibatch_size,
        f"{processes} processes": processes,
        f"num_samples_per_prompt={num_samples_per_prompt}": num_samples_per_prompt,
    }
    raise_problems(
        f"rollout_batch_size={rollout_batch_size} is not divisible by {name}: change one of them"
        for name, size in divisors.items()
        if rollout_batch_size % size
    )
