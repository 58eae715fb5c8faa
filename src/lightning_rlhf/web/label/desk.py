"""Decides who is asked what, and takes the answers."""

import time
from collections.abc import Callable
from dataclasses import replace
from threading import RLock

from lightning_rlhf.web.label.book import Book, new_id, now
from lightning_rlhf.web.label.chance import chance, shuffled
from lightning_rlhf.web.label.choices import Choice
from lightning_rlhf.web.label.items import Item
from lightning_rlhf.web.label.pace import choices_a_minute
from lightning_rlhf.web.label.questions import Progress, Question, Said

# Who has not answered for this long has probably closed the page, and others may be asked instead.
_HELD_SECONDS = 1800.0
# A question is repeated when a person has answered this many others since, and does not remember the answer.
_REPEAT_AFTER = 10


class AnsweredOtherwise(Exception):
    """A person has said something else about the question before."""


class Desk:
    """Asks every person for whatever is still open; all methods may be called from several threads.

    An item is asked of one person, except for a share of the items that all people are asked about, which measures
    their agreement. Some questions are asked a second time, which measures how consistent a person is. Whether an item
    is shared, whether a question is a repeat, and the order of the answers follow from the seed and from what has been
    answered, so a server that is started again goes on as before.
    """

    def __init__(
        self,
        book: Book,
        *,
        shared: float = 0.2,
        repeats: float = 0.05,
        seed: int = 0,
        to_come: Callable[[], int] = lambda: 0,
    ) -> None:
        """Stores the settings.

        Args:
            book: Items and choices.
            shared: Share of the items that all people are asked about.
            repeats: Share of the questions that are repeats.
            seed: Seed of all decisions by chance.
            to_come: Number of items that are still to be made.
        """
        self.book, self.shared, self.repeats, self.seed, self.to_come = book, shared, repeats, seed, to_come
        self._lock = RLock()
        self._held: dict[str, tuple[str, int, float]] = {}

    def add(self, item: Item, *, keep: bool = True) -> None:
        """Adds an item; see `Book.add`."""
        with self._lock:
            self.book.add(item, keep=keep)

    def as_question(self, person: str, item: str, round: int) -> Question:
        """Returns what a person is shown if asked about an item.

        Raises:
            KeyError: If there is no such item.
        """
        known = self.book.items[item]
        return Question(known, round, shuffled(len(known.answers), self.seed, "order", person, item, round))

    def people(self) -> list[tuple[str, list[Choice]]]:
        """Returns the people who have made choices, each with a copy of them."""
        with self._lock:
            return [(person, list(choices)) for person, choices in self.book.people()]

    def num_open(self) -> int:
        """Counts the items that nobody has answered, skipped or in front of them."""
        with self._lock:
            touched = {choice.item for choice in self.book.choices.values()} | self._held_by_others("")
            return len(self.book.items.keys() - touched)

    def question(self, person: str) -> Question | None:
        """Chooses what a person is asked next: the same question until it is answered.

        Returns:
            The question, or None if there is none at present.
        """
        with self._lock:
            held = self._held.get(person)
            place = held[:2] if held else self._repeat(person) or self._new(person)
            if place is None:
                return None
            self._held[person] = (*place, time.monotonic())
            return self.as_question(person, *place)

    def answer(self, person: str, item: str, round: int, said: Said) -> Choice:
        """Writes what a person says about a question, once.

        The page repeats what it has sent if it does not know whether the server has received it. A person who has the
        page open in two windows may also answer the question in both; the first answer stays.

        Args:
            person: Name of the person.
            item: Id of the item.
            round: Round of the question.
            said: What the person says.

        Returns:
            The choice, which is on the disk.

        Raises:
            KeyError: If there is no such item.
            ValueError: If the best answer is missing, or there is no such answer.
            AnsweredOtherwise: If the person has answered the question already, and says something else now.
            OSError: If the choice cannot be written.
        """
        with self._lock:
            question = self.as_question(person, item, round)
            if (said.verdict == "better") != (said.pick is not None):
                raise ValueError(f"verdict={said.verdict} with pick={said.pick}: only a better answer has a place")
            if said.pick is not None and said.pick >= len(question.shown):
                raise ValueError(f"pick={said.pick}: there are {len(question.shown)} answers")
            choice = Choice(
                id=new_id(),
                item=item,
                person=person,
                round=round,
                verdict=said.verdict,
                best=None if said.pick is None else question.shown[said.pick],
                shown=question.shown,
                strength=said.strength if said.pick is not None else None,
                edited=said.edited.strip(),
                comment=said.comment.strip(),
                seconds=_tenths(said.seconds),
                time=now(),
            )
            if (known := self._choice(person, item, round)) is not None:
                if replace(choice, id=known.id, time=known.time) != known:
                    raise AnsweredOtherwise
                return known
            self.book.record(choice)
            if self._held.get(person, ("", 0))[:2] == (item, round):
                del self._held[person]
            return choice

    def undo(self, person: str, choice: str) -> Choice | None:
        """Removes a choice of a person, who is then asked again.

        Args:
            person: Name of the person.
            choice: Id of the choice.

        Returns:
            The choice, or None if it has been removed already.
        """
        with self._lock:
            found = self.book.choices.get(choice)
            if found is None or found.person != person:
                return None
            self.book.remove(found)
            self._held[person] = (found.item, found.round, time.monotonic())
            return found

    def last(self, person: str) -> str | None:
        """Returns the id of a person's newest choice; None if there is none."""
        with self._lock:
            choices = self.book.of(person)
            return choices[-1].id if choices else None

    def progress(self, person: str) -> Progress:
        """Says how far a person has come."""
        with self._lock:
            choices, answered = self.book.of(person), self._answered()
            own = {choice.item for choice in choices}
            left = sum(self._may_be_asked(item, own, answered) for item in self.book.items) + self.to_come()
            # Repeats count like other questions, since the progress must not give them away.
            return Progress(len(choices), round(left * (1 + self.repeats)), choices_a_minute(choices))

    def _answered(self) -> set[str]:
        return {choice.item for choice in self.book.choices.values() if choice.verdict != "skip"}

    def _may_be_asked(self, item: str, own: set[str], answered: set[str]) -> bool:
        return item not in own and (item not in answered or chance(self.seed, "shared", item) < self.shared)

    def _new(self, person: str) -> tuple[str, int] | None:
        own, answered = {choice.item for choice in self.book.of(person)}, self._answered()
        taken = answered | self._held_by_others(person)
        return next(((item, 0) for item in self.book.items if self._may_be_asked(item, own, taken)), None)

    def _held_by_others(self, person: str) -> set[str]:
        since = time.monotonic() - _HELD_SECONDS
        return {item for name, (item, _, when) in self._held.items() if name != person and when > since}

    def _repeat(self, person: str) -> tuple[str, int] | None:
        choices = self.book.of(person)
        if chance(self.seed, "repeat", person, len(choices)) >= self.repeats:
            return None
        again = {choice.item for choice in choices if choice.round}
        candidates = [
            choice.item
            for choice in choices[:-_REPEAT_AFTER]
            if choice.verdict != "skip" and choice.item not in again and choice.item in self.book.items
        ]
        if not candidates:
            return None
        return candidates[int(chance(self.seed, "which", person, len(choices)) * len(candidates))], 1

    def _choice(self, person: str, item: str, round: int) -> Choice | None:
        return next((one for one in self.book.of(person) if (one.item, one.round) == (item, round)), None)


def _tenths(seconds: float) -> float:
    return round(seconds, 1)
