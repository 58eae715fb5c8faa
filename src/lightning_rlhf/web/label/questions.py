"""What passes between the page and the desk: questions, what people say about them, and their progress."""

from dataclasses import dataclass
from typing import NamedTuple

from lightning_rlhf.data.verdicts import Verdict
from lightning_rlhf.web.label.items import Item, digest


class Question(NamedTuple):
    """An item that a person is asked about."""

    item: Item
    round: int
    """0, or 1 if the person has answered it before."""
    shown: tuple[int, ...]
    """Places of the answers in the item, in the order in which they are shown."""

    @property
    def texts(self) -> list[str]:
        """The answers in the order in which they are shown."""
        return [self.item.answers[place].text for place in self.shown]

    @property
    def token(self) -> str:
        """Identifies what is shown; a page that shows something else has another token."""
        return digest(self.item.id, self.round, self.texts)


@dataclass(frozen=True, slots=True)
class Said:
    """What the page sends about a question.

    Attributes:
        verdict: What the person says.
        pick: Place on the page of the best answer, from 0, if one is better.
        strength: By how much, from 1 to 3, if the person says so.
        edited: A better answer, or an empty text.
        comment: A comment, or an empty text.
        seconds: Time that the person has taken.
    """

    verdict: Verdict
    pick: int | None = None
    strength: int | None = None
    edited: str = ""
    comment: str = ""
    seconds: float = 0.0


class Progress(NamedTuple):
    """How far a person has come."""

    done: int
    left: int
    """An estimate, since others answer questions too."""
    rate: float | None
    """Choices a minute, if it is known."""
