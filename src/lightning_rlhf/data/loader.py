"""Minibatches: global, shuffled, spread over ranks and accumulated parts."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lightning.pytorch import Trainer

from lightning_rlhf.errors import UserError
from lightning_rlhf.seeding import ROWS, permutation


class MinibatchLoader:
    """Yields this rank's micro-batches of each global minibatch; one pass is an epoch.

    `minibatch_size` counts the sequences behind one optimizer step, over all ranks and accumulated parts. Every epoch
    has a fresh order; rows that do not fill a minibatch wait for the next epoch. The epoch and the position in it are
    saved in checkpoints, so that a resumed run sees the rows that it would have seen.
    """

    def __init__(
        self,
        rows: Sequence[Any],
        collate: Callable[[list[Any], int], Any],
        size_of: Callable[[Any], int],
        *,
        minibatch_size: int,
        trainer: Trainer,
        seed: int,
    ) -> None:
        """Prepares the loader.

        Args:
            rows: The data set.
            collate: Makes a batch of some rows, given the size of their whole minibatch.
            size_of: What a row adds to the size of its minibatch: 1, or its number of tokens.
            minibatch_size: Sequences for each optimizer step.
            trainer: Says how many ranks and accumulated parts share a minibatch.
            seed: Of the order.

        Raises:
            UserError: If the minibatch cannot be shared equally, or there are too few rows for one.
        """
        self.rows, self.collate, self.size_of, self.seed = rows, collate, size_of, seed
        self.rank, self.minibatch_size = trainer.global_rank, minibatch_size
        self.num_parts = trainer.accumulate_grad_batches
        self.micro_batch_size = micro_batch_size(minibatch_size, trainer)
        check_enough(len(rows), minibatch_size)
        self.epoch = self.position = 0

    def __len__(self) -> int:
        """Micro-batches of an epoch, on each rank."""
        return len(self.rows) // self.minibatch_size * self.num_parts

    def __iter__(self) -> Iterator[Any]:
        """Starts or continues an epoch; nothing moves before the first batch is asked for."""
        if self.position == len(self):
            self.epoch, self.position = self.epoch + 1, 0
        order = permutation(len(self.rows), self.seed, ROWS, self.epoch)
        while self.position < len(self):
            number, part = divmod(self.position, self.num_parts)
            minibatch = [self.rows[i] for i in order[number * self.minibatch_size :][: self.minibatch_size]]
            start = (self.rank * self.num_parts + part) * self.micro_batch_size
            self.position += 1
            yield self.collate(
                minibatch[start : start + self.micro_batch_size], sum(self.size_of(row) for row in minibatch)
            )

    def progress(self) -> dict[str, int]:
        """Where the loader stands, in rows of the epoch, and what the rows depend on."""
        over = self.position == len(self)
        return {
            "epoch": self.epoch + over,
            "row": 0 if over else self.position // self.num_parts * self.minibatch_size,
            "num_rows": len(self.rows),
            "minibatch_size": self.minibatch_size,
            "num_parts": self.num_parts,
        }

    def go_on(self, progress: dict[str, int]) -> None:
        """Continues from there, in minibatches of another size too.

        Raises:
            UserError: If the rows of an epoch that is not over are others now, or no minibatch begins there.
        """
        row, num_rows = progress["row"], progress["num_rows"]
        if row and num_rows != len(self.rows):
            raise UserError(
                f"the data had {num_rows} rows to train on when the checkpoint was written, after {row} rows of an "
                f"epoch, and have {len(self.rows)} now: go on with the same data, or from the end of an epoch"
            )
        self.epoch = progress["epoch"]
        self.position = first_minibatch(row, self.minibatch_size, progress) * self.num_parts


def first_minibatch(row: int, minibatch_size: int, progress: dict[str, Any]) -> int:
    """The number of the minibatch that begins at a row, for a run that goes on with another size.

    Raises:
        UserError: If none begins there.
    """
    if row % minibatch_size:
        raise UserError(
            f"minibatch_size was {progress['minibatch_size']} when the checkpoint was written and is {minibatch_size} "
            f"now, and no minibatch of that size begins after the {row} rows that were read: go on with a size that "
            f"divides {row}"
        )
    return row // minibatch_size


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


def micro_batch_size(minibatch_size: int, trainer: Trainer) -> int:
    """Sequences that one rank puts through its nets at a time.

    Raises:
        UserError: If ranks and accumulated parts do not divide the minibatch.
    """
    return part_size(minibatch_size, trainer.world_size, trainer.accumulate_grad_batches)


def part_size(minibatch_size: int, processes: int, accumulate: int) -> int:
    """The same of so many ranks and accumulated parts.

    Raises:
        UserError: If they do not divide the minibatch.
    """
    parts = processes * accumulate
    if minibatch_size < 1 or minibatch_size % parts:
        raise UserError(
            f"minibatch_size={minibatch_size} does not divide by {parts} = {processes} processes x "
            f"accumulate_grad_batches={accumulate}: change one of them"
        )
    return minibatch_size // parts


class OrderedLoader:
    """This rank's batches of one pass in order, as many and as wide as on every other rank."""

    def __init__(
        self,
        num_rows: int,
        collate: Callable[[list[int], list[bool]], Any],
        *,
        batch_size: int,
        trainer: Trainer,
    ) -> None:
        """Prepares the loader.

        Args:
            num_rows: Length of the data set.
            collate: Makes a batch of the rows at some places, and is told which of them count: the last batch is
                filled up with rows that do not.
            batch_size: Rows of a batch on each rank.
            trainer: Says how many ranks share the rows.
        """
        self.num_rows, self.collate, self.batch_size = num_rows, collate, batch_size
        self.rank, self.world_size = trainer.global_rank, trainer.world_size

    def __len__(self) -> int:
        """Batches of a pass, on each rank."""
        return -(-self.num_rows // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[Any]:
        """Starts a pass."""
        for start in range(0, self.num_rows, self.batch_size * self.world_size):
            # A short last batch is short on every rank.
            width = min(self.batch_size, -(-(self.num_rows - start) // self.world_size))
            places = range(start + self.rank * width, start + (self.rank + 1) * width)
            yield self.collate([min(i, self.num_rows - 1) for i in places], [i < self.num_rows for i in places])
