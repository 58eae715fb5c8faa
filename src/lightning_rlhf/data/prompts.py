"""Data of PPO: prompts to sample from, and held-out prompts to answer."""

import json
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from lightning.pytorch import Trainer

from lightning_rlhf.data.batches import PromptBatch, pad
from lightning_rlhf.data.faults import OnError
from lightning_rlhf.data.formats import OtherColumns, Record
from lightning_rlhf.data.kinds import TOKENS, Columns, Conversation, Kind, records_with
from lightning_rlhf.data.loader import OrderedLoader
from lightning_rlhf.data.module import ResumableDataModule, ResumableLoader
from lightning_rlhf.data.ptx import read_ptx
from lightning_rlhf.data.reading import fitting, read, read_split, tell_epoch
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.rows import Rows
from lightning_rlhf.data.sources import Data, held_out_source
from lightning_rlhf.data.splits import Reading
from lightning_rlhf.errors import UserError
from lightning_rlhf.seeding import PROMPTS, endless


class Prompt(NamedTuple):
    """One prompt."""

    ids: np.ndarray
    """(tokens,) unsigned integers."""
    text: str
    """The last user turn, for people and for text rewards."""
    columns: OtherColumns
    """The other columns of the row, and the whole prompt as `messages`."""


@runtime_checkable
class SamplesResponses(Protocol):
    """A module that samples responses to prompts and trains on them; `PromptDataModule` requires such a module."""

    def rollout_dataset(self, prompts: Sequence[Prompt], ptx: Rows[Conversation] | None) -> ResumableLoader:
        """Makes the data set of responses to the prompts.

        Args:
            prompts: Prompts to sample responses to.
            ptx: Texts to mix into the updates, if any.
        """


class PromptDataModule(ResumableDataModule):
    """Reads prompts in any known layout.

    Training does not use the prompts directly, but the responses that the module samples to them.
    """

    def __init__(
        self,
        path: Data,
        renderer: Renderer,
        *,
        val_path: Data | None = None,
        val_fraction: float = 0.05,
        val_batch_size: int = 64,
        max_prompt_length: int = 512,
        ptx_path: Data | None = None,
        ptx_max_length: int = 1024,
        on_error: Literal["raise", "skip"] = "raise",
        reading: Reading | None = None,
    ) -> None:
        """Stores the settings; nothing is read before `setup`.

        Args:
            path: File, folder, or name of a Hugging Face data set; or rows: a `datasets.Dataset`, a torch `Dataset` of
                dicts, or a list of dicts.
            renderer: Turns conversations into tokens.
            val_path: Held-out prompts; if None, the split of the data for validation or tests, or else `val_fraction`
                of the prompts.
            val_fraction: Share of the prompts to hold out; at least one is.
            val_batch_size: Number of prompts that each process answers at a time.
            max_prompt_length: Length limit of a prompt, in tokens; longer prompts are skipped and counted.
            ptx_path: Texts to mix into the updates, if any; see `read_ptx`.
            ptx_max_length: Length limit of these texts, in tokens.
            on_error: Whether an invalid row raises an error, or is skipped and counted.
            reading: Which part of the data is read, and what its fields are called.
        """
        super().__init__()
        self.path, self.renderer, self.val_path, self.val_fraction = path, renderer, val_path, val_fraction
        self.val_batch_size, self.max_prompt_length, self.on_error = val_batch_size, max_prompt_length, on_error
        self.ptx_path, self.ptx_max_length, self.reading = ptx_path, ptx_max_length, reading or Reading()
        self.train_prompts: Rows[Prompt]
        self.ptx: Rows[Conversation] | None = None

    def setup(self, stage: str) -> None:
        """Reads and renders the data once."""
        if hasattr(self, "train_prompts"):
            return
        train, held_out = read_split(
            self.path,
            PROMPT,
            self.renderer,
            self.val_path,
            val_fraction=self.val_fraction,
            max_length=self.max_prompt_length,
            on_error=self.on_error,
            reading=self.reading,
        )
        prompts = fitting(*train, self.max_prompt_length)
        if self.ptx_path is not None:
            self.ptx = read_ptx(self.ptx_path, self.renderer, self.ptx_max_length, self.on_error, self.reading)
        self.val_prompts = fitting(*held_out, self.max_prompt_length)
        tell_epoch(len(prompts), len(self.val_prompts))
        self.train_prompts = prompts

    def make_train_loader(self) -> ResumableLoader:
        """Asks the module for the data set of responses to the prompts.

        Raises:
            UserError: If the module does not sample responses.
        """
        module = self.attached_trainer.lightning_module
        if not isinstance(module, SamplesResponses):
            raise UserError(
                f"PromptDataModule feeds a PPOModule, which samples responses, not a {type(module).__name__}"
            )
        return module.rollout_dataset(self.train_prompts, self.ptx)

    def val_dataloader(self) -> OrderedLoader[PromptBatch]:
        """Makes the loader of held-out prompts in order."""
        return prompt_loader(self.val_prompts, self.val_batch_size, self.attached_trainer)


def _render(renderer: Renderer, records: Sequence[Record]) -> list[Columns | UserError]:
    rendered = renderer.prompts([record.prompt for record in records], [record.tools for record in records])
    return [
        ids if isinstance(ids, UserError) else {"length": len(ids), "ids": ids, **prompt_columns(record)}
        for record, ids in zip(records, rendered, strict=True)
    ]


def prompt_columns(record: Record) -> Columns:
    """Makes the columns of a prompt in addition to its ids: its messages, and the other columns of its row."""
    return {"prompt": json.dumps(record.prompt), "columns": json.dumps(record.columns)}


def prompt_row(ids: np.ndarray, prompt: str, columns: str | OtherColumns) -> Prompt:
    """Makes a row from the columns of `prompt_columns`."""
    messages = json.loads(prompt)
    others = json.loads(columns) if isinstance(columns, str) else columns
    question = next(turn["content"] for turn in reversed(messages) if turn["role"] == "user")
    return Prompt(ids, question, {**others, "messages": messages})


PROMPT = Kind(
    "prompts",
    records_with("prompt"),
    {"length": pa.int32(), "ids": TOKENS, "prompt": pa.string(), "columns": pa.string()},
    _render,
    prompt_row,
)


def read_prompts(data: Data, renderer: Renderer, max_length: int, on_error: OnError, reading: Reading) -> Rows[Prompt]:
    """Reads the prompts of held-out data that are not too long."""
    prepared = read(held_out_source(data, reading), PROMPT, renderer, on_error)
    return fitting(prepared.name, prepared.rows, max_length)


def collate_prompts(prompts: list[Prompt], indices: list[int]) -> PromptBatch:
    """Pads prompts to a batch."""
    ids, mask = pad([prompt.ids for prompt in prompts], side="left")
    return PromptBatch(ids, mask, [p.text for p in prompts], [p.columns for p in prompts], indices)


def prompt_loader(prompts: Sequence[Prompt], batch_size: int, trainer: Trainer) -> OrderedLoader[PromptBatch]:
    """Makes the loader of this rank's share of the prompts, in order."""
    return OrderedLoader(
        len(prompts),
        lambda places, count: collate_prompts([prompts[i] for i in places], places),
        batch_size=batch_size,
        trainer=trainer,
    )


def iteration_prompts(
    prompts: Sequence[Prompt], num_rows: int, group_size: int, seed: int, iteration: int
) -> PromptBatch:
    """Selects the prompts of an iteration: consecutive pieces of passes over all prompts, each pass in a new order.

    Args:
        prompts: All prompts.
        num_rows: Number of responses of an iteration.
        group_size: Number of responses to each prompt, which are adjacent rows.
        seed: Seed of the order.
        iteration: Number of the iteration, which selects the piece.

    Returns:
        A batch of `num_rows` prompts.
    """
    count = num_rows // group_size
    places = endless(len(prompts), iteration * count, count, seed, PROMPTS)
    return collate_prompts([prompts[place] for place in places for _ in range(group_size)], list(range(num_rows)))
