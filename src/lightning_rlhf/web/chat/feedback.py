"""Where the thumbs of the chat page go: ratings of answers, and the preferences that follow from them."""

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from lightning_rlhf.data.messages import Message
from lightning_rlhf.errors import UserError
from lightning_rlhf.web.label.journal import Journal, Row

PREFERENCES, RATINGS = "preferences.jsonl", "ratings.jsonl"
_SETTING = "chat.feedback_dir"


class Saved(NamedTuple):
    """How much is in the files."""

    preferences: int
    ratings: int


class Feedback:
    """Ratings of answers, and pairs of a liked and a disliked answer to the same conversation.

    A thumb up is a score of 1, and a thumb down a score of 0; `stage=reward` learns from the scores by regression. The
    pairs, which `stage=reward` and `stage=dpo` read, follow from the ratings. The last thumb on an answer counts.
    """

    def __init__(self, folder: Path) -> None:
        """Reads what is in the files, and keeps other servers from writing to them.

        Args:
            folder: Folder of the files.

        Raises:
            UserError: If another server writes the files, if they cannot be read or written, or if something else has
                written them.
        """
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._only_writer = FileLock(folder / ".lock")
            self._only_writer.acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"{_SETTING}={folder}: another server writes there: stop it, or name another") from error
        except OSError as error:
            raise UserError(f"{_SETTING}={folder}: cannot be written: {error}") from error
        self._ratings = Journal(folder / RATINGS, _SETTING)
        self._preferences = Journal(folder / PREFERENCES, _SETTING)
        # Requests arrive in several threads.
        self._lock = threading.Lock()
        try:
            pairs = list(_pairs(self._ratings.rows))
        except (KeyError, TypeError) as error:
            raise _strange(folder / RATINGS) from error
        if any(row not in pairs for row in self._preferences.rows):
            raise _strange(folder / PREFERENCES)
        # An earlier server may have been killed between the two files.
        _set(self._preferences, pairs)

    def rate(self, messages: Sequence[Message], answer: str, up: bool | None) -> Saved:
        """Stores a thumb; when the method returns, it is on the disk.

        Args:
            messages: The conversation before the answer.
            answer: The answer.
            up: Whether the thumb points up; None takes the thumb back.

        Returns:
            How much is in the files.

        Raises:
            OSError: If the files cannot be written.
        """
        # A message, because a text that looks like a transcript would be read as one.
        about: Row = {"prompt": list(messages), "completion": [{"role": "assistant", "content": answer}]}
        with self._lock:
            others = [row for row in self._ratings.rows if any(row[name] != about[name] for name in about)]
            _set(self._ratings, others if up is None else [*others, {**about, "score": float(up)}])
            _set(self._preferences, list(_pairs(self._ratings.rows)))
            return Saved(len(self._preferences.rows), len(self._ratings.rows))

    def close(self) -> None:
        """Lets another server write the files."""
        self._only_writer.release()


def _pairs(ratings: Sequence[Row]) -> Iterator[Row]:
    """Pairs each rating with the earlier ones of the other kind on the same conversation."""
    by_prompt: dict[str, list[Row]] = {}
    for row in ratings:
        earlier = by_prompt.setdefault(json.dumps(row["prompt"]), [])
        for other in earlier:
            if other["score"] != row["score"]:
                good, bad = (row, other) if row["score"] > other["score"] else (other, row)
                yield {"prompt": row["prompt"], "chosen": good["completion"], "rejected": bad["completion"]}
        earlier.append(row)


def _set(journal: Journal, rows: list[Row]) -> None:
    """Writes what has changed in a file: appends if nothing was removed, and replaces the file otherwise."""
    old = journal.rows
    if rows[: len(old)] != old:
        journal.replace(rows)
    elif len(rows) > len(old):
        journal.append(rows[len(old) :])


def _strange(file: Path) -> UserError:
    return UserError(f"{_SETTING}={file.parent}: {file.name} has rows that no thumb has made: name another folder")
