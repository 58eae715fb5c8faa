"""The share of a minibatch: the rows that each rank processes in each accumulated part.

This arithmetic is in this module alone. The loaders of demonstrations, pairs and experience use it, and so do the
checks before a run and its table of batch sizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from lightning.pytorch import Trainer

from lightning_rlhf.errors import UserError

Row = TypeVar("Row")


@dataclass(frozen=True)
class Shares:
    """Equal shares of the ranks and their accumulated parts in each minibatch; the rows of rank 0's parts come first.

    Attributes:
        minibatch_size: Number of rows of one optimizer step, over all ranks and accumulated parts.
        processes: Number of ranks that share a minibatch.
        num_parts: Number of parts of a rank's share, which are accumulated into one optimizer step.
        rank: The rank whose share is computed.
    """

    minibatch_size: int
    processes: int
    num_parts: int
    rank: int = 0

    def __post_init__(self) -> None:
        """Checks that the shares are equal.

        Raises:
            UserError: If the minibatch does not divide among ranks and accumulated parts.
        """
        shares = self.processes * self.num_parts
        if self.minibatch_size < 1 or self.minibatch_size % shares:
            raise UserError(
                f"minibatch_size={self.minibatch_size} is not divisible by {shares} = {self.processes} processes x "
                f"accumulate_grad_batches={self.num_parts}: change one of them"
            )

    @classmethod
    def of(cls, minibatch_size: int, trainer: Trainer) -> Self:
        """Makes the shares for the ranks and accumulated parts of a trainer.

        Raises:
            UserError: If the minibatch does not divide among them.
        """
        return cls(minibatch_size, trainer.world_size, trainer.accumulate_grad_batches, trainer.global_rank)

    @property
    def micro_batch_size(self) -> int:
        """Number of rows that one rank processes at a time."""
        return self.minibatch_size // (self.processes * self.num_parts)

    def place(self, position: int) -> tuple[int, int]:
        """Returns the numbers of minibatch and part at a position, which counts this rank's micro-batches."""
        return divmod(position, self.num_parts)

    def minibatch(self, rows: list[Row], number: int) -> list[Row]:
        """Returns the rows of a minibatch, over all ranks and parts; the last one of an epoch may be smaller."""
        return rows[number * self.minibatch_size :][: self.minibatch_size]

    def mine(self, minibatch: list[Row], part: int) -> list[Row]:
        """Returns this rank's rows in one part of a minibatch; they are fewer than `width` if the rows run out."""
        width = self.width(minibatch)
        first = (self.rank * self.num_parts + part) * width
        return minibatch[first : first + width]

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


def check_enough(num_rows: int, minibatch_size: int) -> None:
    """Checks that there are enough rows to fill a minibatch.

    Raises:
        UserError: If there are not.
    """
    if num_rows < minibatch_size:
        raise UserError(
            f"minibatch_size={minibatch_size}, but there are only {num_rows} rows to train on: "
            f"give more data or set minibatch_size to at most {num_rows}"
        )
