"""The files that the stages read, made from conversations: demonstrations, prompts, and answers without a score."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_rlhf.errors import UserError
from lightning_rlhf.saving import json_lines, write_rows
from lightning_rlhf.synthesis.duplicates import Duplicates
from lightning_rlhf.synthesis.templates import Templates

if TYPE_CHECKING:
    from lightning_rlhf.data.fields import Message

FILES = ("demonstrations", "prompts", "unscored")
Rows = dict[str, list[dict[str, Any]]]


class Limits(NamedTuple):
    """Limits of the assistant's answers, in words."""

    min_words: int
    max_words: int | None

    def checked(self) -> "Limits":
        """Returns itself; raises `UserError` if no answer fits."""
        if self.min_words < 1 or (self.max_words is not None and self.max_words < self.min_words):
            raise UserError(
                f"min_answer_words={self.min_words}, max_answer_words={self.max_words}: the first must be positive, "
                "and the second not smaller (null sets no limit)"
            )
        return self


class Filter:
    """Decides which conversations become rows, and of which turns.

    Attributes:
        dropped: Number of conversations and prompts that were left out, and of conversations that were shortened, each
            by the reason.
    """

    def __init__(self, templates: Templates, limits: Limits, near_duplicates: float | None) -> None:
        """Stores the settings; see `Templates`, `Limits` and `Duplicates`."""
        self.templates, self.limits = templates, limits.checked()
        self.dropped: Counter[str] = Counter()
        self._conversations, self._prompts = Duplicates(near_duplicates), Duplicates(None)

    def rows(self, messages: "Sequence[Message]", ended: str | None) -> Rows:
        """Makes the rows of each file.

        Args:
            messages: A finished conversation.
            ended: Why it ended early; None if it did not.
        """
        if ended is not None:
            self.dropped[f"conversations that ended early because {ended}"] += 1
        kept = self._within_limits(messages)
        if not kept:
            self.dropped["conversations without an answer that could be kept"] += 1
            return {}
        repeats = self._conversations.kind("\n".join(turn["content"] for turn in kept))
        if repeats is not None:
            self.dropped[f"conversations {repeats} to an earlier one"] += 1
            return {}
        actor, rlhf = (
            [{"role": "system", "content": text}] if text else []
            for text in (self.templates.actor, self.templates.rlhf)
        )
        answers = range(1, len(kept), 2)
        return {
            "demonstrations": [{"messages": [*actor, *kept]}],
            "prompts": [{"prompt": [*rlhf, *kept[:place]]} for place in answers if self._is_new(kept[:place])],
            "unscored": [
                {"prompt": [*actor, *kept[:place]], "completion": kept[place]["content"]} for place in answers
            ],
        }

    def _within_limits(self, messages: "Sequence[Message]") -> "Sequence[Message]":
        """The turns before the first exchange whose answer is too short or too long."""
        for place in range(1, len(messages), 2):
            words = len(messages[place]["content"].split())
            if words < self.limits.min_words:
                self.dropped["conversations shortened before an answer that is too short"] += 1
                return messages[: place - 1]
            if self.limits.max_words is not None and words > self.limits.max_words:
                self.dropped["conversations shortened before an answer that is too long"] += 1
                return messages[: place - 1]
        return messages

    def _is_new(self, prompt: "Sequence[Message]") -> bool:
        new = self._prompts.kind("\n".join(turn["content"] for turn in prompt)) is None
        self.dropped["prompts equal to an earlier one"] += not new
        return new


class DataFiles:
    """Writes the rows of conversations as they arrive.

    The files depend on the conversations alone, so they are made anew when a process goes on, and can be made anew with
    other filters. Each row is on the disk before the next conversation is added.

    Attributes:
        counts: Number of rows of each file.
        dropped: See `Filter`.
    """

    def __init__(self, folder: Path, rows_of: Filter, conversations: Iterable[dict[str, Any]]) -> None:
        """Writes the rows of the conversations that there are already.

        Args:
            folder: The folder of the files.
            rows_of: Makes the rows.
            conversations: The finished conversations, each with its `messages` and why it `ended`.
        """
        self._filter, self._open = rows_of, ExitStack()
        self.counts = dict.fromkeys(FILES, 0)
        made: Rows = {name: [] for name in FILES}
        for conversation in conversations:
            for name, rows in rows_of.rows(conversation["messages"], conversation["ended"]).items():
                made[name] += rows
        paths = {name: folder / f"{name}.jsonl" for name in FILES}
        for name, path in paths.items():
            write_rows(path, made[name])
            self.counts[name] = len(made[name])
        self._streams = {name: self._open.enter_context(path.open("ab")) for name, path in paths.items()}

    @property
    def dropped(self) -> dict[str, int]:
        """What was left out, and how often."""
        return dict(+self._filter.dropped)

    def add(self, messages: "Sequence[Message]", ended: str | None) -> None:
        """Appends the rows of a finished conversation, and returns when they are on the disk."""
        for name, rows in self._filter.rows(messages, ended).items():
            stream = self._streams[name]
            stream.write(json_lines(rows))
            stream.flush()
            os.fsync(stream.fileno())
            self.counts[name] += len(rows)

    def close(self) -> None:
        """Closes the files."""
        self._open.close()
