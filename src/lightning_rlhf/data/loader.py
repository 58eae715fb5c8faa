"""Loaders: shuffled global minibatches, shared by ranks and accumulated parts, and ordered passes for validation."""

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np
from lightning.pytorch import Trainer

from lightning_rlhf.data.budget import Load
from lightning_rlhf.data.shares import Shares, filled, shares_of
from lightning_rlhf.errors import UserError
from lightning_rlhf.seeding import ROWS, permutation

Row = TypeVar("Row")
Batch = TypeVar("Batch", covariant=True)


class MinibatchLoader(Generic[Row, Batch]):
    """Yields this rank's micro-batches of each global minibatch; one pass is an epoch.

    `minibatch_size` is the number of sequences of one optimizer step, over all ranks and accumulated parts; if there
    are fewer rows, it is as large as they allow. Every epoch has a new order. The rows that do not fill a minibatch are
    the last, smaller minibatch, which all ranks and parts share too: they are filled up with rows that do not count,
    and the loss is divided by those that do. With `drop_last`, such rows are left for the next epoch. Checkpoints
    contain the epoch and the position in it, so a resumed run reads the rows that it would have read without the
    interruption.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        collate: Callable[[list[Row], list[bool], int], Batch],
        sizes: np.ndarray,
        *,
        minibatch_size: int,
        drop_last: bool = False,
        lengths: np.ndarray | None = None,
        max_tokens: int | None = None,
        trainer: Trainer,
        seed: int,
    ) -> None:
        """Prepares the loader.

        Args:
            rows: The data set.
            collate: Function that makes a batch of some rows, and is told which of them count, and the size of their
                whole minibatch.
            sizes: (rows,) contribution of each row to the size of its minibatch: 1, or its number of tokens.
            minibatch_size: Number of sequences of each optimizer step.
            drop_last: Whether an epoch leaves out the rows that do not fill a minibatch.
            lengths: (rows,) number of tokens of each row, by which rows are dealt to ranks and parts; None leaves them
                in order.
            max_tokens: Limit of the tokens of a micro-batch, padding included; None for none. It needs `lengths`.
            trainer: Knows how many ranks and accumulated parts share a minibatch.
            seed: Seed of the order.

        Raises:
            UserError: If the minibatch cannot be shared equally, there are fewer rows than shares, or the trainer
                accumulates too few parts for the limit of tokens.
        """
        self.rows, self.collate, self.sizes, self.seed = rows, collate, sizes, seed
        self.lengths = None if lengths is None else lengths.tolist()
        self.shares = Shares.of(filled(minibatch_size, len(rows), shares_of(trainer)), trainer, max_tokens)
        if lengths is not None:
            self.shares.check_budget([Load(self.shares.minibatch_size, lengths)])
        self.drop_last = drop_last
        self.epoch = self.position = 0

    def __len__(self) -> int:
        """Number of micro-batches of an epoch, on each rank."""
        whole, rest = divmod(len(self.rows), self.shares.minibatch_size)
        return (whole + (rest > 0 and not self.drop_last)) * self.shares.num_parts

    def __iter__(self) -> Iterator[Batch]:
        """Starts or continues an epoch; the position does not change before the first batch is requested."""
        if self.position == len(self):
            self.epoch, self.position = self.epoch + 1, 0
        order = permutation(len(self.rows), self.seed, ROWS, self.epoch)
        while self.position < len(self):
            number, part = self.shares.place(self.position)
            minibatch = self.shares.minibatch(order, number)
            shares = self.shares
            parts = shares.in_order(minibatch) if self.lengths is None else shares.dealt(minibatch, self.lengths)
            self.position += 1
            mine = shares.mine(parts, part)
            # Ranks compute equally many parts, so that none of them may be empty.
            fillers = (shares.width(minibatch) if shares.max_tokens is None else 1) - len(mine)
            rows = [self.rows[i] for i in (*mine, *minibatch[-1:] * fillers)]
            yield self.collate(rows, [True] * len(mine) + [False] * fillers, int(self.sizes[minibatch].sum()))

    def progress(self) -> dict[str, int]:
        """Returns the position in rows of the epoch, and the sizes on which the order of rows depends."""
        over = self.position == len(self)
        return {
            "epoch": self.epoch + over,
            "row": 0 if over else self.shares.row(self.position),
            "num_rows": len(self.rows),
            "minibatch_size": self.shares.minibatch_size,
            "num_parts": self.shares.num_parts,
        }

    def go_on(self, progress: dict[str, int]) -> None:
        """Continues from a saved position; the size of a minibatch may have changed.

        Raises:
            UserError: If the rows have changed in the middle of an epoch, or no minibatch begins at the position.
        """
        row, num_rows = progress["row"], progress["num_rows"]
        if row and num_rows != len(self.rows):
            raise UserError(
                f"the data had {num_rows} rows to train on when the checkpoint was written, after {row} rows of an "
                f"epoch, and have {len(self.rows)} now: continue with the same data, or from the end of an epoch"
            )
        self.epoch = progress["epoch"]
        self.position = self.shares.position(row, progress)


class OrderedLoader(Generic[Batch]):
    """Yields this rank's batches of one pass in order; all ranks have equally many batches of equal size."""

    def __init__(
        self,
        num_rows: int,
        collate: Callable[[list[int], list[bool]], Batch],
        *,
        batch_size: int,
        trainer: Trainer,
    ) -> None:
        """Prepares the loader.

        Args:
            num_rows: Number of rows of the data set.
            collate: Function that makes a batch of the rows with some indices, and is told which of them count: the
                last batch is filled up with rows that do not count.
            batch_size: Number of rows of a batch on each rank.
            trainer: Knows how many ranks share the rows.
        """
        self.num_rows, self.collate, self.batch_size = num_rows, collate, batch_size
        self.rank, self.world_size = trainer.global_rank, trainer.world_size

    def __len__(self) -> int:
        """Number of batches of a pass, on each rank."""
        return -(-self.num_rows // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[Batch]:
        """Starts a pass."""
        for start in range(0, self.num_rows, self.batch_size * self.world_size):
            # A short last batch is short on every rank.
            width = min(self.batch_size, -(-(self.num_rows - start) // self.world_size))
            places = range(start + self.rank * width, start + (self.rank + 1) * width)
            yield self.collate([min(i, self.num_rows - 1) for i in places], [i < self.num_rows for i in places])
