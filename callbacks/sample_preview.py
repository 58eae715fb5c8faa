"""Shows a few answers to held-out prompts on the console, at every evaluation."""

from itertools import groupby
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from lightning_rlhf.console import console, number
from lightning_rlhf.data.kinds import Conversation
from lightning_rlhf.data.prompts import Prompt, collate_prompts
from lightning_rlhf.data.sft import SFTDataModule
from lightning_rlhf.errors import UserError
from lightning_rlhf.hooks import RLHFCallback
from lightning_rlhf.modules.sft import SFTModule
from lightning_rlhf.rollout.evaluate import HeldOutAnswers

# The columns of a line where there is no terminal.
_WIDTH = 160


class SamplePreview(RLHFCallback):
    """Prints a line for each of the first answers: prompt → answer, and the score if there is one.

    In SFT without prompts to answer, the model answers the prompts of the first held-out demonstrations, and the line
    ends with their own answer. These answers are only shown; no metric is about them.
    """

    def __init__(self, num_rows: int = 2) -> None:
        """Stores how many answers to show.

        Args:
            num_rows: The number of answers; 0 shows none.

        Raises:
            UserError: If it is negative.
        """
        if num_rows < 0:
            raise UserError(f"callbacks.preview.num_rows={num_rows}: must not be negative")
        self.num_rows = num_rows

    def on_evaluation_end(
        self, trainer: Trainer, module: LightningModule, iteration: int, samples: list[dict[str, Any]]
    ) -> None:
        """Shows the first answers."""
        for sample in samples[: self.num_rows] if trainer.is_global_zero else []:
            known = {name: number(sample[name]) for name in ("score", "gold") if name in sample}
            _show(sample["prompt"], sample["response"], ", ".join(f"{name} {value}" for name, value in known.items()))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Answers demonstrations, if nothing else is answered; all processes take part and draw the same answers."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not (isinstance(pl_module, SFTModule) and isinstance(data, SFTDataModule)) or len(data.prompts):
            return
        rows = [data.val_rows[row] for row in range(min(self.num_rows, len(data.val_rows)))]
        parts = [split_at_answer(row) for row in rows]
        # The preview shows the text of the ids, so it needs no messages.
        tokenizer = data.renderer.tokenizer
        prompts = [Prompt(ids, text_of_turns(ids.tolist(), tokenizer), {"messages": []}) for ids, _ in parts]
        for sample, (_, answer) in zip(answered(trainer, pl_module, prompts), parts, strict=True):
            if trainer.is_global_zero:
                reference = data.renderer.decode(answer.tolist())
                _show(sample["prompt"], sample["response"], f"reference: {reference}")


def split_at_answer(row: Conversation) -> tuple[np.ndarray, np.ndarray]:
    """Splits a conversation before its last answer, and leaves out what follows the answer.

    Returns:
        The ids of the prompt and of the answer.
    """
    learnt = np.flatnonzero(row.loss_mask)
    end = int(learnt[-1]) + 1
    others = np.flatnonzero(~np.asarray(row.loss_mask[:end], dtype=bool))
    start = int(others[-1]) + 1 if len(others) else 0
    return row.ids[:start], row.ids[start:end]


def text_of_turns(ids: list[int], tokenizer: Any) -> str:
    """The text of a conversation, with a space in place of the control tokens that separate its turns."""
    control = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    turns = [tokenizer.decode(list(turn)) for is_control, turn in groupby(ids, control.__contains__) if not is_control]
    return " ".join(turns)


def answered(trainer: Trainer, module: SFTModule, prompts: list[Prompt]) -> list[dict[str, Any]]:
    """Answers prompts with the current weights, under the random numbers of every evaluation."""
    if not prompts:
        return []
    own = module.answers
    answers = HeldOutAnswers(own.sampling, own.renderer, gold=None, seed=own.seed)
    batch = collate_prompts(prompts, list(range(len(prompts)))).to(module.device)
    with module.engine.phase(trainer, module, generator=module.net) as engine:
        answers.answer(engine, batch)
    return list(answers.samples.values())


def _show(prompt: str, response: str, rest: str) -> None:
    """Prints a line; prompt, response and what follows are cut so that each has its share of it."""
    width = (console.width if console.is_terminal else _WIDTH) - len("    →     ")
    rest = _cut(rest, width // 3)
    prompt = _cut(prompt, (width - len(rest)) // 2, from_end=True)
    console.say(
        f"  {prompt} → {_cut(response, width - len(rest) - len(prompt))}" + (f"  ({rest})" if rest else ""), "dim"
    )


def _cut(text: str, width: int, *, from_end: bool = False) -> str:
    text = " ".join(text.split())
    if len(text) <= width:
        return text
    return f"…{text[len(text) - width + 1 :]}" if from_end else f"{text[: width - 1]}…"
