"""Data of reward modelling and DPO: pairs of a chosen and a rejected answer, or answers with a score."""

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lightning_rlhf.data.batches import PairBatch, PromptBatch, ScoreBatch, pad
from lightning_rlhf.data.budget import check_budget
from lightning_rlhf.data.kinds import Conversation, Kind
from lightning_rlhf.data.loader import MinibatchLoader, OrderedLoader
from lightning_rlhf.data.module import ResumableDataModule
from lightning_rlhf.data.pairs import PAIRS, SCORES, Pair, Scored, prompt_of
from lightning_rlhf.data.prompts import Prompt, prompt_loader, read_prompts
from lightning_rlhf.data.reading import fitting, read_split, tell_epoch
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.rows import Rows
from lightning_rlhf.data.shares import filled, shares_of
from lightning_rlhf.data.sources import Data
from lightning_rlhf.data.splits import Reading


class PreferenceDataModule(ResumableDataModule):
    """Reads preference pairs or scores in any known layout, renders and batches them.

    With `answer_prompts`, the model also answers held-out prompts during validation.
    """

    def __init__(
        self,
        path: Data,
        renderer: Renderer,
        *,
        objective: Literal["pairwise", "regression"] = "pairwise",
        minibatch_size: int = 64,
        max_tokens_per_micro_batch: int | None = None,
        val_path: Data | None = None,
        val_fraction: float = 0.05,
        val_batch_size: int = 64,
        answer_prompts: bool = False,
        prompts_held_out: Data | None = None,
        max_length: int = 1024,
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
            objective: `pairwise` to learn from pairs, `regression` to learn from scores.
            minibatch_size: Number of pairs or scored answers of each optimizer step, over all processes and accumulated
                parts; smaller if there are fewer rows.
            max_tokens_per_micro_batch: Limit of the tokens that a process computes at a time, padding included, which
                the trainer's `accumulate_grad_batches` has to allow; None for none. Both answers of a pair count.
            val_path: Held-out rows; if None, the split of the data for validation or tests, or else the rows of
                `val_fraction` of the prompts.
            val_fraction: Share of the prompts to hold out; at least one is.
            val_batch_size: Number of pairs, scored answers or prompts that each process validates at a time.
            answer_prompts: Whether the model answers prompts during validation.
            prompts_held_out: Prompts to answer; if None, the prompts of the held-out rows.
            max_length: Length limit of a prompt with an answer, in tokens; longer rows are skipped and counted.
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
        self.path, self.renderer, self.objective, self.seed = path, renderer, objective, seed
        self.minibatch_size, self.val_path, self.val_fraction = minibatch_size, val_path, val_fraction
        self.val_batch_size, self.max_length, self.on_error = val_batch_size, max_length, on_error
        self.answer_prompts, self.prompts_held_out = answer_prompts, prompts_held_out
        self.reading, self.drop_last = reading or Reading(), drop_last
        self.train_rows: Rows[Pair | Scored]

    def setup(self, stage: str) -> None:
        """Reads and renders the data once."""
        if hasattr(self, "train_rows"):
            return
        kind: Kind[Pair | Scored] = PAIRS if self.objective == "pairwise" else SCORES
        train, held_out = read_split(
            self.path,
            kind,
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
        if self.answer_prompts and self.prompts_held_out is not None:
            self.prompts = read_prompts(
                self.prompts_held_out, self.renderer, self.max_length, self.on_error, self.reading
            )
        elif self.answer_prompts:
            self.prompts = self._prompts(*held_out)
        tell_epoch(len(rows), len(self.val_rows), self.minibatch_size, drop_last=self.drop_last)
        self._all_train = train
        self.train_rows = rows

    def reference_prompts(self, count: int) -> Rows[Prompt]:
        """Returns the first distinct prompts of the training rows, to sample from the reference policy.

        Args:
            count: The largest number of prompts.
        """
        return self._prompts(*self._all_train, count)

    def _prompts(self, name: str, rows: Rows[Pair | Scored], count: int | None = None) -> Rows[Prompt]:
        """Returns the distinct prompts of rows, including long rows.

        A prompt has the place of its first row and the columns of its last row.
        """
        texts = rows.table["prompt"]
        digests = (hashlib.blake2b(texts[int(place)].as_buffer(), digest_size=16).digest() for place in rows.places)
        places = np.asarray(list(dict(zip(digests, rows.places, strict=True)).values())[:count])
        prompts = Rows(rows.table, prompt_of, places, rows.beyond)
        return fitting(name, prompts, self.max_length, prompts.numbers("prompt_length"))

    def row_tokens(self) -> np.ndarray:
        """Returns the tokens of each row to train on, with padding, (rows,); a pair has two answers of equal length."""
        return self.train_rows.numbers("length") * (1 if self.objective == "regression" else 2)

    def make_train_loader(self) -> MinibatchLoader[Pair | Scored, PairBatch | ScoreBatch]:
        """Makes the loader of shuffled minibatches."""
        # A budget counts padding, and the work without one does not.
        budget = self.max_tokens_per_micro_batch
        return MinibatchLoader(
            self.train_rows,
            self._collate,
            np.ones(len(self.train_rows), dtype=int),
            minibatch_size=self.minibatch_size,
            drop_last=self.drop_last,
            lengths=self.row_tokens() if budget else self.train_rows.numbers("tokens"),
            max_tokens=budget,
            trainer=self.attached_trainer,
            seed=self.seed,
        )

    def val_dataloader(self) -> list[OrderedLoader[PairBatch | ScoreBatch | PromptBatch]]:
        """Makes the loaders of held-out rows in order, and of prompts to answer if there are any."""

        def collate(places: list[int], count: list[bool]) -> PairBatch | ScoreBatch:
            return self._collate([self.val_rows[i] for i in places], count, len(places))

        rows = OrderedLoader(len(self.val_rows), collate, batch_size=self.val_batch_size, trainer=self.attached_trainer)
        if not self.prompts:
            return [rows]
        return [rows, prompt_loader(self.prompts, self.val_batch_size, self.attached_trainer)]

    def _collate(self, rows: list, count: list[bool], num_rows: int) -> PairBatch | ScoreBatch:
        make = collate_scores if self.objective == "regression" else collate_pairs
        return make(rows, num_rows)._replace(weight=torch.tensor(count, dtype=torch.float))


def collate_pairs(pairs: Sequence[Pair], num_pairs: int) -> PairBatch:
    """Pads pairs to a batch.

    Args:
        pairs: B pairs.
        num_pairs: Number of pairs in the whole minibatch.
    """
    conversations: list[Conversation] = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    ids, mask = pad([conversation.ids for conversation in conversations])
    return PairBatch(
        ids,
        mask,
        margin=torch.tensor([pair.margin for pair in pairs]),
        answer_lengths=answer_lengths(conversations),
        weight=torch.ones(len(pairs)),
        num_pairs=num_pairs,
    )


def answer_lengths(conversations: Sequence[Conversation]) -> Tensor:
    """Counts the tokens of the last answers, (B,)."""
    return torch.tensor([int(np.sum(conversation.loss_mask)) for conversation in conversations])


def collate_scores(rows: list[Scored], num_rows: int) -> ScoreBatch:
    """Pads scored answers to a batch.

    Args:
        rows: B scored answers.
        num_rows: Number of rows in the whole minibatch.
    """
    ids, mask = pad([row.conversation.ids for row in rows])
    return ScoreBatch(ids, mask, torch.tensor([row.score for row in rows]), torch.ones(len(rows)), num_rows)
