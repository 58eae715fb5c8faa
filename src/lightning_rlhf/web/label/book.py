"""Everything that is known about a labelling: items and choices, in memory and in files that outlive the server."""

import uuid
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from lightning_rlhf.errors import UserError
from lightning_rlhf.web.label.choices import Choice, choices_in, demonstrations_of, rows_of, rows_without
from lightning_rlhf.web.label.items import Item
from lightning_rlhf.web.label.journal import Journal


class Book:
    """Items in the order in which they arrive, and choices in the order in which they are made.

    There are three files: the labels, from which everything else follows; the items, so that samples are drawn once;
    and the answers that people have written, as demonstrations for `stage=sft`.

    Attributes:
        items: Items by their ids.
        choices: Choices by their ids.
    """

    def __init__(self, out: Path) -> None:
        """Reads what an earlier server has left, and mends what it has left half-done.

        Args:
            out: File of the labels, whose name ends in `.jsonl`. The others are beside it.

        Raises:
            UserError: If a file cannot be written, is written by another server, or has other content.
        """
        if out.suffix != ".jsonl":
            raise UserError(f"out={out}: name a file whose name ends in .jsonl")
        self.out = out
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(out.with_name(f".{out.name}.lock"))
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"out={out}: another server writes this file: stop it, or name another") from error
        except OSError as error:
            raise UserError(f"out={out}: cannot be written: {error}") from error
        self._labels = Journal(out, "out")
        self._items = Journal(out.with_suffix(".items.jsonl"), "out")
        self._edited = Journal(out.with_suffix(".edited.jsonl"), "out")
        try:
            choices = choices_in(self._labels.rows)
            items = [Item.from_row(row) for row in self._items.rows]
        except (KeyError, TypeError) as error:
            raise UserError(
                f"out={out}: there is a row that the page has not written ({type(error).__name__}: {error}); name a "
                "new file, or read the file as pairs=FILE and write to another"
            ) from error
        self.items = {item.id: item for item in items}
        self.choices = {choice.id: choice for choice in choices}
        self._by_person: defaultdict[str, list[Choice]] = defaultdict(list)
        for choice in choices:
            self._by_person[choice.person].append(choice)
        whole = [row for row in self._labels.rows if row["label"]["id"] in self.choices]
        if len(whole) < len(self._labels.rows):
            self._labels.replace(whole)
        if self._edited.rows != (edited := demonstrations_of(whole)):
            self._edited.replace(edited)

    @property
    def edited_file(self) -> Path:
        """The file of the answers that people have written."""
        return self._edited.path

    def add(self, item: Item, *, keep: bool) -> None:
        """Adds an item, unless it is there already.

        Args:
            item: The item.
            keep: Whether to write it to the file of items, because it could not be made again.
        """
        if item.id not in self.items:
            if keep:
                self._items.append([item.as_row()])
            self.items[item.id] = item

    def record(self, choice: Choice) -> None:
        """Writes a choice; when the method returns, it is on the disk.

        Raises:
            OSError: If it cannot be written. Nothing has changed then.
        """
        rows = rows_of(choice, self.items[choice.item])
        self._labels.append(rows)
        self.choices[choice.id] = choice
        self._by_person[choice.person].append(choice)
        if edited := demonstrations_of(rows):
            self._edited.append(edited)

    def remove(self, choice: Choice) -> None:
        """Removes a choice from the files."""
        self._labels.replace(rows_without(self._labels.rows, choice.id))
        del self.choices[choice.id]
        self._by_person[choice.person].remove(choice)
        if choice.edited:
            self._edited.replace(rows_without(self._edited.rows, choice.id))

    def of(self, person: str) -> list[Choice]:
        """Returns the choices of a person, oldest first."""
        return self._by_person.get(person, [])

    def people(self) -> Iterator[tuple[str, list[Choice]]]:
        """Yields the people who have made choices, each with them."""
        yield from ((person, choices) for person, choices in sorted(self._by_person.items()) if choices)

    def close(self) -> None:
        """Lets another server write the files."""
        self._lock.release()


def new_id() -> str:
    """Returns an id that no choice has."""
    return uuid.uuid4().hex[:16]


def now() -> str:
    """Returns the time in ISO 8601 and UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
