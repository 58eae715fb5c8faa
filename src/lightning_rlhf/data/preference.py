"""Data of reward modelling and DPO: pairs of answers, one preferred; or answers with a score."""

from typing import Literal, NamedTuple, cast

import torch

from lightning_rlhf.data.batches import PairBatch, ScoreBatch, pad
from lightning_rlhf.data.formats import Message, Record
from lightning_rlhf.data.loader import MinibatchLoader, OrderedLoader, check_enough
from lightning_rlhf.data.module import ResumableDataModule
from lightning_rlhf.data.prompts import Prompt, prompt_loader, read_prompts, render_prompts
from lightning_rlhf.data.reading import read_split, rendered
from lightning_rlhf.data.render import Rendered, Renderer


class Pair(NamedTuple):
    """Two answers to one prompt."""

    chosen: Rendered
    rejected: Rendered
    margin: float


class Scored(NamedTuple):
    """An answer with its score."""

    conversation: Rendered
    score: float


class PreferenceDataModule(ResumableDataModule):
    """Reads preference pairs or scores in any known layout, renders and batches them.

    With `answer_prompts`, the model also answers held-out prompts during validation.
    """

    def __init__(
        self,
        path: str,
        renderer: Renderer,
        *,
        objective: Literal["pairwise", "regression"] = "pairwise",
        minibatch_size: int = 64,
        val_path: str | None = None,
        val_fraction: float = 0.05,
        val_batch_size: int = 64,
        answer_prompts: bool = False,
        prompts_held_out: str | None = None,
        max_length: int = 1024,
        on_error: Literal["raise", "skip"] = "raise",
        seed: int = 0,
    ) -> None:
        """Remembers what to read; nothing is read before `setup`.

        Args:
            path: File, folder, or name of a Hugging Face data set.
            renderer: Makes tokens of conversations.
            objective: Learn from pairs, or from scores.
            minibatch_size: Pairs (or scored answers) for each optimizer step, over all processes and parts.
            val_path: Held-out rows; if None, those of `val_fraction` of the prompts are held out.
            val_fraction: Share of the prompts to hold out.
            val_batch_size: Pairs, scored answers or prompts that each process validates at a time.
            answer_prompts: Also give prompts to answer during validation.
            prompts_held_out: Those prompts; if None, the prompts of the held-out rows.
            max_length: Rows with a longer answer, prompt included, in tokens, are left out and counted.
            on_error: What a wrong row does: stop, or be skipped and counted.
            seed: Of the order of the rows.
        """
        super().__init__()
        self.path, self.renderer, self.objective, self.seed = path, renderer, objective, seed
        self.minibatch_size, self.val_path, self.val_fraction = minibatch_size, val_path, val_fraction
        self.val_batch_size, self.max_length, self.on_error = val_batch_size, max_length, on_error
        self.answer_prompts, self.prompts_held_out = answer_prompts, prompts_held_out
        self.train_rows: list[Pair] | list[Scored] = []

    def setup(self, stage: str) -> None:
        """Reads and renders, once."""
        if self.train_rows:
            return
        self.train_records, held_out = read_split(
            self.path,
            "pair" if self.objective == "pairwise" else "score",
            self.val_path,
            val_fraction=self.val_fraction,
            on_error=self.on_error,
        )
        self.train_rows = self._render(self.train_records, self.path)
        check_enough(len(self.train_rows), self.minibatch_size)
        self.val_rows = self._render(held_out, self.val_path or self.path)
        self.prompts: list[Prompt] = []
        if self.answer_prompts and self.prompts_held_out:
            self.prompts = read_prompts(self.prompts_held_out, self.renderer, self.max_length, self.on_error)
        elif self.answer_prompts:
            self.prompts = self._prompts(held_out, self.val_path or self.path)

    def _render(self, records: list[Record], path: str) -> list[Pair] | list[Scored]:
        def conversation(messages: list[Message]) -> Rendered:
            return cut_at_end(self.renderer.conversation(messages, loss_on="last"))

        if self.objective == "regression":
            return rendered(
                records,
                lambda record: Scored(conversation(record.messages), cast(float, record.score)),
                lambda row: len(row.conversation.ids),
                path=path,
                max_length=self.max_length,
            )
        return rendered(
            records,
            lambda record: Pair(
                conversation(record.messages), conversation(record.rejected or []), record.margin or 0.0
            ),
            lambda row: max(len(row.chosen.ids), len(row.rejected.ids)),
            path=path,
            max_length=self.max_length,
        )

    def reference_prompts(self, count: int) -> list[Prompt]:
        """The first prompts of the training rows, each once: to sample from the reference policy."""
        return self._prompts(self.train_records, self.path, count)

    def _prompts(self, records: list[Record], path: str, count: int | None = None) -> list[Prompt]:
        unique = {str(record.prompt): record for record in records}
        return render_prompts(list(unique.values())[:count], self.renderer, path=path, max_length=self.max_length)

    def make_train_loader(self) -> MinibatchLoader:
        """Shuffled minibatches of `PairBatch` or `ScoreBatch`."""
        return MinibatchLoader(
            self.train_rows,
            self._collate,
            lambda row: 1,
            minibatch_size=self.minibatch_size,
            trainer=self.attached_trainer,
            seed=self.seed,
        )

    def val_dataloader(self) -> list[OrderedLoader]:
        """Held-out rows in order, and the prompts to answer if there are any."""

        def collate(places: list[int], count: list[bool]) -> PairBatch | ScoreBatch:
            batch = self._collate([self.val_rows[i] for i in places], len(places))
            return batch._replace(weight=torch.tensor(count, dtype=torch.float))

        rows = OrderedLoader(len(self.val_rows), collate, batch_size=self.val_batch_size, trainer=self.attached_trainer)
        if not self.prompts:
            return [rows]
        return [rows, prompt_loader(self.prompts, self.val_batch_size, self.attached_trainer)]

    def _collate(self, rows: list, count: int) -> PairBatch | ScoreBatch:
        return collate_scores(rows, count) if self.objective == "regression" else collate_pairs(rows, count)


def cut_at_end(conversation: Rendered) -> Rendered:
    """The conversation without what its template puts after the last stop token, as a sampled one ends.

    So the score is read at the same token when the reward model is trained and when it judges samples.
    """
    end = len(conversation.loss_mask) - conversation.loss_mask[::-1].index(True)
    return Rendered(conversation.ids[:end], conversation.loss_mask[:end])


def collate_pairs(pairs: list[Pair], num_pairs: int) -> PairBatch:
    """Pads pairs to a batch.

    Args:
        pairs: B pairs.
        num_pairs: Pairs of their whole minibatch.
    """
    conversations = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    ids, mask = pad([conversation.ids for conversation in conversations])
    return PairBatch(
        ids,
        mask,
        margin=torch.tensor([pair.margin for pair in pairs]),
        answer_lengths=torch.tensor([sum(conversation.loss_mask) for conversation in conversations]),
        weight=torch.ones(len(pairs)),
        num_pairs=num_pairs,
    )


def collate_scores(rows: list[Scored], num_rows: int) -> ScoreBatch:
    """Pads scored answers to a batch.

    Args:
        rows: B scored answers.
        num_rows: Rows of their whole minibatch.
    """
    ids, mask = pad([row.conversation.ids for row in rows])
    return ScoreBatch(ids, mask, torch.tensor([row.score for row in rows]), torch.ones(len(rows)), num_rows)
