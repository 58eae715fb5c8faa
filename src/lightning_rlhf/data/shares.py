"""The share of a minibatch: which of its rows each rank puts through its nets in each accumulated part.

This arithmetic stands here alone. Loaders of demonstrations, pairs and experience use it, and so do the checks before
a run and its table of batch sizes.
"""

from dataclasses import dataclass
from typing import Any, Self, TypeVar

from lightning.pytorch import Trainer

from lightning_rlhf.errors import UserError

Row = TypeVar("Row")


@dataclass(frozen=True)
class Shares:
    """How ranks and accumulated parts share each minibatch equally: the rows of rank 0's parts stand first.

    Attributes:
        minibatch_size: Rows behind one optimizer step, over all ranks and accumulated parts.
        processes: Ranks that share a minibatch.
        num_parts: Parts of a rank's share, which accumulate to one optimizer step.
        rank: Whose share it is.
    """

    minibatch_size: int
    processes: int
    num_parts: int
    rank: int = 0

    def __post_init__(self) -> None:
        """Checks that there are equal shares.

        Raises:
            UserError: If ranks and accumulated parts do not divide the minibatch.
        """
        shares = self.processes * self.num_parts
        if self.minibatch_size < 1 or self.minibatch_size % shares:
            raise UserError(
                f"minibatch_size={self.minibatch_size} does not divide by {shares} = {self.processes} processes x "
                f"accumulate_grad_batches={self.num_parts}: change one of them"
            )

    @classmethod
    def of(cls, minibatch_size: int, trainer: Trainer) -> Self:
        """The shares of the ranks and accumulated parts of a trainer.

        Raises:
            UserError: If they do not divide the minibatch.
        """
        return cls(minibatch_size, trainer.world_size, trainer.accumulate_grad_batches, trainer.global_rank)

    @property
    def micro_batch_size(self) -> int:
        """Rows that one rank puts through its nets at a time."""
        return self.minibatch_size // (self.processes * self.num_parts)

    def place(self, position: int) -> tuple[int, int]:
        """The minibatch and the part of it that are read at a position, which counts this rank's micro-batches."""
        return divmod(position, self.num_parts)

    def minibatch(self, rows: list[Row], number: int) -> list[Row]:
        """The rows of a minibatch, over all ranks and parts."""
        return rows[number * self.minibatch_size :][: self.minibatch_size]

    def mine(self, minibatch: list[Row], part: int) -> list[Row]:
        """This rank's rows of a minibatch in one of its parts."""
        first = (self.rank * self.num_parts + part) * self.micro_batch_size
        return minibatch[first : first + self.micro_batch_size]

    def row(self, position: int) -> int:
        """How many rows lie in the minibatches that are over at a position."""
        return position // self.num_parts * self.minibatch_size

    def position(self, row: int, progress: dict[str, Any]) -> int:
        """The position at which the minibatch begins that starts with a row, in a run that may have another size.

        Args:
            row: Rows that were read when a checkpoint was written.
            progress: What the checkpoint holds beside it: the `minibatch_size` of then.

        Raises:
            UserError: If no minibatch begins there.
        """
        if row % self.minibatch_size:
            raise UserError(
                f"minibatch_size was {progress['minibatch_size']} when the checkpoint was written and is "
                f"{self.minibatch_size} now, and no minibatch of that size begins after the {row} rows that were "
                f"read: go on with a size that divides {row}"
            )
        return row // self.minibatch_size * self.num_parts


def check_enough(num_rows: int, minibatch_size: int) -> None:
    """Checks that the rows fill a minibatch.

    Raises:
        UserError: If they do not.
    """
    if num_rows < minibatch_size:
        raise UserError(
            f"minibatch_size={minibatch_size}, but there are only {num_rows} rows to train on: "
            f"give more data or set minibatch_size to at most {num_rows}"
        )
