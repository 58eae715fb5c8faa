"""What people are asked about: a prompt with two or more answers."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lightning_rlhf.web.label.chance import shuffled
from lightning_rlhf.web.label.journal import Row

if TYPE_CHECKING:
    from lightning_rlhf.data.formats import Record

BLIND = "a blind pair"
"""Where both answers come from whose writers, and whose better one, the file of pairs does not tell."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a prompt.

    Attributes:
        text: The answer.
        source: Who wrote it, which the page does not show: a model, or a column of a file.
        finished: Whether it ended by itself, and not at the length limit.
    """

    text: str
    source: str
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt with answers.

    Attributes:
        id: Identifies the item, also in later starts of a server.
        prompt: The conversation up to the answer.
        answers: Two or more different answers.
        place: The place of the prompt in its file.
        tools: Descriptions of the tools of the conversation, if there are any.
    """

    id: str
    prompt: list[Any]
    answers: tuple[Answer, ...]
    place: str
    tools: list[Any] = field(default_factory=list)

    def as_row(self) -> Row:
        """Returns the line of the item in a file."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Row) -> "Item":
        """Reads a line that `as_row` has made."""
        return cls(**{**row, "answers": tuple(Answer(**answer) for answer in row["answers"])})


def digest(*parts: object) -> str:
    """Returns a name that depends on everything in the arguments."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8).hexdigest()


def items_of_pairs(records: "Sequence[Record]") -> Iterator[Item]:
    """Yields an item for each pair of a file.

    Equal pairs are one item. An answer without a text, such as a call of a tool, cannot be shown, so its pair is left
    out. The place of an answer in its item does not say which one the file prefers.
    """
    seen = set()
    for record in records:
        assert record.rejected is not None
        sources = (BLIND, BLIND) if record.columns.get("blind") is True else ("chosen", "rejected")
        texts = (turns[-1]["content"] for turns in (record.messages, record.rejected))
        answers = [Answer(text, source) for text, source in zip(texts, sources, strict=True)]
        name = digest(record.prompt, sorted(answer.text for answer in answers))
        if name not in seen and all(answer.text.strip() for answer in answers):
            seen.add(name)
            order = shuffled(2, name)
            yield Item(name, record.prompt, tuple(answers[n] for n in order), record.source, record.tools)
