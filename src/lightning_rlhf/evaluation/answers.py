"""The answers of two models to the same prompts: drawn, stored, and read again."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning_rlhf.console import TimedLines
from lightning_rlhf.data.faults import Report
from lightning_rlhf.data.formats import Record
from lightning_rlhf.data.messages import Message
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.rollout.speaker import Reply, Speaker, fitting_prompts, most_tokens
from lightning_rlhf.saving import write_rows
from lightning_rlhf.seeding import EVALUATION, RandomKey
from lightning_rlhf.synthesis.journal import Journal
from lightning_rlhf.synthesis.verdicts import key_of

FILE = "answers.jsonl"


class Answered(NamedTuple):
    """A prompt with the answers of both models."""

    messages: list[Message]
    """The conversation before the answers."""
    columns: dict[str, Any]
    """The other columns of the row."""
    a: Reply
    b: Reply

    @property
    def question(self) -> str:
        """The last turn of the user."""
        return next(turn["content"] for turn in reversed(self.messages) if turn["role"] == "user")

    @property
    def prompt(self) -> str:
        """The conversation as JSON, which says which rows share a prompt."""
        return json.dumps(self.messages)

    @property
    def difference(self) -> int:
        """By how many characters the answer of a is longer; models with different tokenizers have this unit alone."""
        return len(self.a.text) - len(self.b.text)


def answerable(
    folder: str, setting: str, records: Sequence[Record], sampling: Sampling, report: Report
) -> list[Record]:
    """Finds the prompts that a model can answer, without its weights.

    Args:
        folder: Folder of the model.
        setting: Name of `folder` in error messages.
        records: The prompts.
        sampling: Settings of the sampling distribution.
        report: Receives the prompts that the template refuses, or that leave no room for an answer.

    Raises:
        UserError: If the folder does not hold a model with a tokenizer.
    """
    source = ModelSource(pretrained=folder, setting=setting)
    limit = most_tokens(source.hf_config())
    renderer = Renderer(source.load_tokenizer(), stop_ids=source.stop_ids())
    prompts, tools = [record.prompt for record in records], [record.tools for record in records]
    rendered = fitting_prompts(folder, renderer, limit, prompts, sampling.max_new_tokens, tools)
    kept = []
    for record, prompt in zip(records, rendered, strict=True):
        if isinstance(prompt, UserError):
            report.skip(record.source, prompt)
        else:
            kept.append(record)
    return kept


def draw_answers(
    speaker: Speaker, records: Sequence[Record], sampling: Sampling, seed: int, journal: Journal
) -> list[Reply]:
    """Draws an answer to each prompt.

    Each prompt has its own random numbers, which are the same for every model. An answer that the journal holds, to the
    same prompt with the same settings, is not drawn again.

    Args:
        speaker: The model.
        records: The prompts.
        sampling: Settings of the sampling distribution.
        seed: Seed of the random numbers.
        journal: The answers that there are already, to which each new one is appended.
    """
    from tqdm import tqdm

    drawn_with = [speaker.name, str(speaker.net.dtype), vars(sampling), seed]
    names = [key_of(*drawn_with, number, record.prompt, record.tools) for number, record in enumerate(records)]
    found = {entry["key"]: Reply(**entry["reply"]) for entry in journal.entries}
    missing = [number for number, name in enumerate(names) if name not in found]
    drawn = speaker.answers(
        [records[number].prompt for number in missing],
        sampling,
        [RandomKey(seed, (EVALUATION, number), row=0) for number in missing],
        [records[number].tools for number in missing],
    )
    known = len(records) - len(missing)
    bar = tqdm(drawn, total=len(records), initial=known, desc=speaker.name, unit="answer", disable=None, delay=1)
    lines = TimedLines()
    for done, (place, reply) in enumerate(bar, known + 1):
        name = names[missing[place]]
        journal.append({"key": name, "reply": reply._asdict()})
        found[name] = reply
        lines.say(f"{speaker.name}: {done:,} of {len(records):,} answers")
    return [found[name] for name in names]


def answered(records: Sequence[Record], a: Sequence[Reply], b: Sequence[Reply]) -> list[Answered]:
    """Puts prompts and answers together."""
    return [
        Answered(record.messages, record.columns, one, other) for record, one, other in zip(records, a, b, strict=True)
    ]


def write_answers(folder: Path, rows: Sequence[Answered]) -> None:
    """Writes the answers as JSON lines."""
    write_rows(folder / FILE, (row._asdict() | {"a": row.a._asdict(), "b": row.b._asdict()} for row in rows))


def read_answers(folder: Path) -> list[Answered]:
    """Reads the answers of an earlier evaluation.

    Raises:
        UserError: If the folder holds none, or they are damaged.
    """
    file = folder / FILE
    try:
        with file.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        found = [Answered(row["messages"], row["columns"], Reply(**row["a"]), Reply(**row["b"])) for row in rows]
    except FileNotFoundError as error:
        raise UserError(
            f"answers={folder}: there is no {FILE}; name the folder of an earlier evaluation. One that was "
            f"interrupted before all answers were drawn goes on if it is started again with hydra.run.dir={folder}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"answers={folder}: {FILE} cannot be read: {error!r}") from error
    if not found:
        raise UserError(f"answers={folder}: {FILE} has no rows")
    return found
