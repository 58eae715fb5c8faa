"""Minibatches: global, shuffled, spread over ranks and accumulated parts."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from lightning.pytorch import Trainer

from lightning_rlhf.data.shares import Shares, check_enough
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
        sizes: np.ndarray,
        *,
        minibatch_size: int,
        trainer: Trainer,
        seed: int,
    ) -> None:
        """Prepares the loader.

        Args:
            rows: The data set.
            collate: Makes a batch of some rows, given the size of their whole minibatch.
            sizes: (rows,) what each adds to the size of its minibatch: 1, or its number of tokens.
            minibatch_size: Sequences for each optimizer step.
            trainer: Says how many ranks and accumulated parts share a minibatch.
            seed: Of the order.

        Raises:
            UserError: If the minibatch cannot be shared equally, or there are too few rows for one.
        """
        self.rows, self.collate, self.sizes, self.seed = rows, collate, sizes, seed
        self.shares = Shares.of(minibatch_size, trainer)
        check_enough(len(rows), minibatch_size)
        self.epoch = self.position = 0

    def __len__(self) -> int:
        """Micro-batches of an epoch, on each rank."""
        return len(self.rows) // self.shares.minibatch_size * self.shares.num_parts

    def __iter__(self) -> Iterator[Any]:
        """Starts or continues an epoch; nothing moves before the first batch is asked for."""
        if self.position == len(self):
            self.epoch, self.position = self.epoch + 1, 0
        order = permutation(len(self.rows), self.seed, ROWS, self.epoch)
        while self.position < len(self):
            number, part = self.shares.place(self.position)
            minibatch = self.shares.minibatch(order, number)
            self.position += 1
            yield self.collate(
                [self.rows[i] for i in self.shares.mine(minibatch, part)], int(self.sizes[minibatch].sum())
            )

    def progress(self) -> dict[str, int]:
        """Where the loader stands, in rows of the epoch, and what the rows depend on."""
        over = self.position == len(self)
        return {
            "epoch": self.epoch + over,
            "row": 0 if over else self.shares.row(self.position),
            "num_rows": len(self.rows),
            "minibatch_size": self.shares.minibatch_size,
            "num_parts": self.shares.num_parts,
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
        self.position = self.shares.position(row, progress)


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
