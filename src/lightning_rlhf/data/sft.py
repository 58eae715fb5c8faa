"""Data of supervised fine-tuning: conversations whose answers are to be imitated."""

from collections.abc import Sequence
from itertools import compress
from typing import Literal

import numpy as np
import torch

from lightning_rlhf.data.batches import PromptBatch, SFTBatch, pad
from lightning_rlhf.data.budget import check_budget
from lightning_rlhf.data.kinds import Conversation, demonstrations
from lightning_rlhf.data.loader import MinibatchLoader, OrderedLoader
from lightning_rlhf.data.module import ResumableDataModule
from lightning_rlhf.data.prompts import Prompt, prompt_loader, read_prompts
from lightning_rlhf.data.reading import fitting, read_split, tell_epoch
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.rows import Rows
from lightning_rlhf.data.shares import filled, shares_of
from lightning_rlhf.data.sources import Data
from lightning_rlhf.data.splits import Reading


class SFTDataModule(ResumableDataModule):
    """Reads demonstrations in any known layout, renders and batches them.

    With `prompts_held_out`, the model also answers those prompts during validation.
    """

    def __init__(
        self,
        path: Data,
        renderer: Renderer,
        *,
        minibatch_size: int = 64,
        max_tokens_per_micro_batch: int | None = None,
        val_path: Data | None = None,
        val_fraction: float = 0.05,
        val_batch_size: int = 64,
        prompts_held_out: Data | None = None,
        max_length: int = 1024,
        loss_on: Literal["all", "last"] = "all",
        learn_reasoning: bool = True,
        on_error: Literal["raise", "skip"] = "raise",
        reading: Reading | None = None,
        drop_last: bool = False,
        seed: int = 0,
    ) -> None:
        """Stores the settings; nothing is read before `setup`.

        Args:
            path: File, folder, or name of a Hugging Face data set; or rows: a `datasets.Dataset`, a torch `Dataset` of
                dicts, or a list of dicts.
            renderer: Turns conversations into tokens.
            minibatch_size: Number of sequences of each optimizer step, over all processes and accumulated parts;
                smaller if there are fewer rows.
            max_tokens_per_micro_batch: Limit of the tokens that a process computes at a time, padding included, which
                the trainer's `accumulate_grad_batches` has to allow; None for none.
            val_path: Held-out demonstrations; if None, the split of the data for validation or tests, or else
                `val_fraction` of the prompts.
            val_fraction: Share of the prompts to hold out; at least one is.
            val_batch_size: Number of sequences that each process validates at a time.
            prompts_held_out: Prompts to answer during validation, if any.
            max_length: Length limit of a row, in tokens; longer rows are skipped and counted.
            loss_on: Whether every assistant turn is learnt (`all`) or only the last (`last`).
            learn_reasoning: Whether the thoughts before answers are learnt.
            on_error: Whether an invalid row raises an error, or is skipped and counted.
            reading: Which part of the data is read, and what its fields are called.
            drop_last: Whether an epoch leaves out the rows that do not fill a minibatch, rather than making a smaller
                one of them.
            seed: Seed of the order of the rows.

        Raises:
            UserError: If the limit of tokens is not positive.
        """
        super().__init__()
        check_budget(max_tokens_per_micro_batch)
        self.max_tokens_per_micro_batch = max_tokens_per_micro_batch
        self.path, self.renderer, self.minibatch_size, self.seed = path, renderer, minibatch_size, seed
        self.val_path, self.val_fraction, self.val_batch_size = val_path, val_fraction, val_batch_size
        self.prompts_held_out, self.max_length = prompts_held_out, max_length
        self.loss_on, self.learn_reasoning, self.on_error = loss_on, learn_reasoning, on_error
        self.reading, self.drop_last = reading or Reading(), drop_last
        self.train_rows: Rows[Conversation]

    def setup(self, stage: str) -> None:
        """Reads and renders the data once."""
        if hasattr(self, "train_rows"):
            return
        train, held_out = read_split(
            self.path,
            demonstrations(self.loss_on, learn_reasoning=self.learn_reasoning),
            self.renderer,
            self.val_path,
            val_fraction=self.val_fraction,
            max_length=self.max_length,
            on_error=self.on_error,
            reading=self.reading,
        )
        rows = fitting(*train, self.max_length)
        self.minibatch_size = filled(self.minibatch_size, len(rows), shares_of(self.trainer))
        self.val_rows = fitting(*held_out, self.max_length)
        self.prompts: Sequence[Prompt] = ()
        if self.prompts_held_out is not None:
            self.prompts = read_prompts(
                self.prompts_held_out, self.renderer, self.max_length, self.on_error, self.reading
            )
        tell_epoch(len(rows), len(self.val_rows), self.minibatch_size, drop_last=self.drop_last)
        self.train_rows = rows

    def row_tokens(self) -> np.ndarray:
        """Returns the number of tokens that a model reads for each row to train on, (rows,)."""
        return self.train_rows.numbers("length")

    def make_train_loader(self) -> MinibatchLoader[Conversation, SFTBatch]:
        """Makes the loader of shuffled minibatches."""
        return MinibatchLoader(
            self.train_rows,
            collate_counted,
            self.train_rows.numbers("num_labels"),
            minibatch_size=self.minibatch_size,
            drop_last=self.drop_last,
            lengths=self.row_tokens(),
            max_tokens=self.max_tokens_per_micro_batch,
            trainer=self.attached_trainer,
            seed=self.seed,
        )

    def val_dataloader(self) -> list[OrderedLoader[SFTBatch | PromptBatch]]:
        """Makes the loaders of held-out demonstrations, and of held-out prompts if there are any."""

        def collate(places: list[int], count: list[bool]) -> SFTBatch:
            rows = [self.val_rows[i] for i in places]
            return collate_counted(rows, count, sum(num_labels(row) for row in compress(rows, count)))

        demonstrations = OrderedLoader(
            len(self.val_rows), collate, batch_size=self.val_batch_size, trainer=self.attached_trainer
        )
        if not self.prompts:
            return [demonstrations]
        return [demonstrations, prompt_loader(self.prompts, self.val_batch_size, self.attached_trainer)]


def num_labels(row: Conversation) -> int:
    """Counts the tokens of a row that are to be learnt."""
    return int(np.sum(row.loss_mask))


def unlabelled(row: Conversation) -> Conversation:
    """Returns the row with nothing to learn: it fills a batch, but does not count."""
    return row._replace(loss_mask=np.zeros(len(row.ids), dtype=bool))


def collate_counted(rows: list[Conversation], count: list[bool], num_tokens: int) -> SFTBatch:
    """Pads rows to a batch, like `collate_sft`; rows that do not count have nothing to learn."""
    counted = [row if counts else unlabelled(row) for row, counts in zip(rows, count, strict=True)]
    return collate_sft(counted, num_tokens)


def collate_sft(rows: list[Conversation], num_tokens: int) -> SFTBatch:
    """Pads rows to a batch.

    Args:
        rows: Conversations.
        num_tokens: Number of tokens to learn in the whole minibatch of these rows.
    """
    ids, mask = pad([row.ids for row in rows])
    loss_mask = torch.zeros_like(mask)
    for number, row in enumerate(rows):
        loss_mask[number, : len(row.ids)] = torch.from_numpy(np.asarray(row.loss_mask))
    return SFTBatch(ids, mask, loss_mask, num_tokens)
