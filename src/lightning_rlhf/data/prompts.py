"""Data of PPO: prompts to sample from, and held-out prompts to answer."""

import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from lightning.pytorch import Trainer

from lightning_rlhf.data.batches import PromptBatch, pad
from lightning_rlhf.data.formats import OnError, Record
from lightning_rlhf.data.kinds import TOKENS, Columns, Conversation, Kind, records_with
from lightning_rlhf.data.loader import OrderedLoader
from lightning_rlhf.data.module import ResumableDataModule, ResumableLoader
from lightning_rlhf.data.ptx import read_ptx
from lightning_rlhf.data.reading import fitting, read, read_split
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.rows import Rows
from lightning_rlhf.data.sources import Data
from lightning_rlhf.errors import UserError
from lightning_rlhf.seeding import PROMPTS, endless


class Prompt(NamedTuple):
    """One prompt."""

    ids: np.ndarray
    """(tokens,) unsigned integers."""
    text: str
    """The last user turn, for people and for text rewards."""
    columns: dict[str, Any]
    """The other columns of the row, and as `messages` the whole prompt."""


@runtime_checkable
class SamplesResponses(Protocol):
    """A module that trains on responses to prompts, which it samples: what `PromptDataModule` feeds."""

    def rollout_dataset(self, prompts: Sequence[Prompt], ptx: Rows[Conversation] | None) -> ResumableLoader:
        """Samples responses to the prompts, and reads them in minibatches.

        Args:
            prompts: To sample from.
            ptx: Texts to mix into the updates, if any.
        """


class PromptDataModule(ResumableDataModule):
    """Reads prompts from any known layout.

    What is trained on are not the prompts but responses to them, which the module samples.
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
    ) -> None:
        """Remembers what to read; nothing is read before `setup`.

        Args:
            path: File, folder, or name of a Hugging Face data set; or rows: a `datasets.Dataset`, a torch `Dataset` of
                dicts, or a list of dicts.
            renderer: Makes tokens of conversations.
            val_path: Held-out prompts; if None, `val_fraction` of them are held out.
            val_fraction: Share of the prompts to hold out.
            val_batch_size: Prompts that each process answers at a time.
            max_prompt_length: Longer prompts, in tokens, are left out and counted.
            ptx_path: Texts to mix into the updates, if any, see `read_ptx`.
            ptx_max_length: Their longest, in tokens.
            on_error: What a wrong row does: stop, or be skipped and counted.
        """
        super().__init__()
        self.path, self.renderer, self.val_path, self.val_fraction = path, renderer, val_path, val_fraction
        self.val_batch_size, self.max_prompt_length, self.on_error = val_batch_size, max_prompt_length, on_error
        self.ptx_path, self.ptx_max_length = ptx_path, ptx_max_length
        self.train_prompts: Rows[Prompt]
        self.ptx: Rows[Conversation] | None = None

    def setup(self, stage: str) -> None:
        """Reads and renders, once."""
        if hasattr(self, "train_prompts"):
            return
        train, held_out = read_split(
            self.path,
            PROMPT,
            self.renderer,
            self.val_path,
            val_fraction=self.val_fraction,
            on_error=self.on_error,
        )
        prompts = fitting(*train, self.max_prompt_length)
        if self.ptx_path is not None:
            self.ptx = read_ptx(self.ptx_path, self.renderer, self.ptx_max_length, self.on_error)
        self.val_prompts = fitting(*held_out, self.max_prompt_length)
        self.train_prompts = prompts

    def make_train_loader(self) -> ResumableLoader:
        """The module's rollouts on the prompts.

        Raises:
            UserError: If the module that is trained makes none.
        """
        module = self.attached_trainer.lightning_module
        if not isinstance(module, SamplesResponses):
            raise UserError(
                f"PromptDataModule feeds a PPOModule, which samples responses, not a {type(module).__name__}"
            )
        return module.rollout_dataset(self.train_prompts, self.ptx)

    def val_dataloader(self) -> OrderedLoader:
        """Held-out prompts in order."""
        return prompt_loader(self.val_prompts, self.val_batch_size, self.attached_trainer)


def _render(renderer: Renderer, records: Sequence[Record]) -> list[Columns | UserError]:
    rendered = renderer.prompts([record.prompt for record in records])
    return [
        ids if isinstance(ids, UserError) else {"length": len(ids), "ids": ids, **prompt_columns(record)}
        for record, ids in zip(records, rendered, strict=True)
    ]


def prompt_columns(record: Record) -> Columns:
    """The columns of what is kept of a prompt beside its ids: its messages and the other columns of its row."""
    return {"prompt": json.dumps(record.prompt), "columns": json.dumps(record.columns)}


def prompt_row(ids: np.ndarray, prompt: str, columns: str | dict[str, Any]) -> Prompt:
    """The row of these columns."""
    messages = json.loads(prompt)
    others = json.loads(columns) if isinstance(columns, str) else columns
    return Prompt(ids, messages[-1]["content"], {**others, "messages": messages})


PROMPT = Kind(
    "prompts",
    records_with("prompt"),
    {"length": pa.int32(), "ids": TOKENS, "prompt": pa.string(), "columns": pa.string()},
    _render,
    prompt_row,
)


def read_prompts(data: Data, renderer: Renderer, max_length: int, on_error: OnError) -> Rows[Prompt]:
    """Reads all prompts of data."""
    prepared = read(data, PROMPT, renderer, on_error)
    return fitting(prepared.name, prepared.rows, max_length)


def collate_prompts(prompts: list[Prompt], indices: list[int]) -> PromptBatch:
    """Pads prompts to a batch."""
    ids, mask = pad([prompt.ids for prompt in prompts], side="left")
    return PromptBatch(ids, mask, [p.text for p in prompts], [p.columns for p in prompts], indices)


def prompt_loader(prompts: Sequence[Prompt], batch_size: int, trainer: Trainer) -> OrderedLoader:
    """This rank's share of the prompts, in order."""
    return OrderedLoader(
        len(prompts),
        lambda places, count: collate_prompts([prompts[i] for i in places], places),
        batch_size=batch_size,
        trainer=trainer,
    )


def iteration_prompts(
    prompts: Sequence[Prompt], num_rows: int, group_size: int, seed: int, iteration: int
) -> PromptBatch:
    """The prompts of an iteration: passes over all of them, each in fresh order, cut into pieces.

    Args:
        prompts: All that there are.
        num_rows: Responses of an iteration.
        group_size: Responses to each prompt, which stand in rows one after the other.
        seed: Of the order.
        iteration: Which piece.

    Returns:
        A batch of `num_rows`.
    """
    count = num_rows // group_size
    places = endless(len(prompts), iteration * count, count, seed, PROMPTS)
    return collate_prompts([prompts[place] for place in places for _ in range(group_size)], list(range(num_rows)))
