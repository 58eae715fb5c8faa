"""Data of PPO: prompts to sample from, and held-out prompts to answer."""

from typing import Any, Literal, NamedTuple

from lightning.pytorch import Trainer

from lightning_rlhf.data.batches import PromptBatch, pad
from lightning_rlhf.data.formats import Record
from lightning_rlhf.data.loader import OrderedLoader
from lightning_rlhf.data.module import ResumableDataModule, ResumableLoader
from lightning_rlhf.data.ptx import read_ptx
from lightning_rlhf.data.reading import OnError, read, read_split, rendered
from lightning_rlhf.data.render import Rendered, Renderer
from lightning_rlhf.seeding import PROMPTS, endless


class Prompt(NamedTuple):
    """One prompt."""

    ids: list[int]
    text: str
    """The last user turn, for people and for text rewards."""
    columns: dict[str, Any]
    """The other columns of the row, and as `messages` the whole prompt."""


class PromptDataModule(ResumableDataModule):
    """Reads prompts from any known layout.

    What is trained on are not the prompts but responses to them, which the module samples.
    """

    def __init__(
        self,
        path: str,
        renderer: Renderer,
        *,
        val_path: str | None = None,
        val_fraction: float = 0.05,
        val_batch_size: int = 64,
        max_prompt_length: int = 512,
        ptx_path: str | None = None,
        ptx_max_length: int = 1024,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> None:
        """Remembers what to read; nothing is read before `setup`.

        Args:
            path: File, folder, or name of a Hugging Face data set.
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
        self.train_prompts: list[Prompt] = []
        self.ptx: list[Rendered] = []

    def setup(self, stage: str) -> None:
        """Reads and renders, once."""
        if self.train_prompts:
            return
        train, held_out = read_split(
            self.path, "prompt", self.val_path, val_fraction=self.val_fraction, on_error=self.on_error
        )
        limit = self.max_prompt_length
        self.train_prompts = render_prompts(train, self.renderer, path=self.path, max_length=limit)
        if self.ptx_path:
            self.ptx = read_ptx(self.ptx_path, self.renderer, self.ptx_max_length, self.on_error)
        self.val_prompts = render_prompts(held_out, self.renderer, path=self.val_path or self.path, max_length=limit)

    def make_train_loader(self) -> ResumableLoader:
        """The module's rollouts on the prompts."""
        module: Any = self.attached_trainer.lightning_module
        return module.rollout_dataset(self.train_prompts, self.ptx)

    def val_dataloader(self) -> OrderedLoader:
        """Held-out prompts in order."""
        return prompt_loader(self.val_prompts, self.val_batch_size, self.attached_trainer)


def render_prompts(records: list[Record], renderer: Renderer, *, path: str, max_length: int) -> list[Prompt]:
    """Renders the prompts of records and leaves out those that are too long."""
    return rendered(
        records,
        lambda record: Prompt(
            renderer.prompt(record.prompt), record.prompt[-1]["content"], {**record.columns, "messages": record.prompt}
        ),
        lambda prompt: len(prompt.ids),
        path=path,
        max_length=max_length,
    )


def read_prompts(path: str, renderer: Renderer, max_length: int, on_error: OnError) -> list[Prompt]:
    """Reads all prompts of a file."""
    return render_prompts(read(path, "prompt", on_error), renderer, path=path, max_length=max_length)


def collate_prompts(prompts: list[Prompt], indices: list[int]) -> PromptBatch:
    """Pads prompts to a batch."""
    ids, mask = pad([prompt.ids for prompt in prompts], side="left")
    return PromptBatch(ids, mask, [p.text for p in prompts], [p.columns for p in prompts], indices)


def prompt_loader(prompts: list[Prompt], batch_size: int, trainer: Trainer) -> OrderedLoader:
    """This rank's share of the prompts, in order."""
    return OrderedLoader(
        len(prompts),
        lambda places, count: collate_prompts([prompts[i] for i in places], places),
        batch_size=batch_size,
        trainer=trainer,
    )


def iteration_prompts(prompts: list[Prompt], num_rows: int, group_size: int, seed: int, iteration: int) -> PromptBatch:
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
