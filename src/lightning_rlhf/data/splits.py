"""Which splits of a data set are trained on, and which are held out, by their names or as the user says."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lightning_rlhf.data.messages import MESSAGE_KEYS
from lightning_rlhf.errors import UserError

Side = Literal["train", "validation", "test"]

COLUMNS = (
    *("prompt", "completion", "messages", "conversations", "instruction", "input", "context", "output", "response"),
    *("user_input", "chosen", "rejected", "score", "margin", "system", "history", "tools", "text"),
)
"""The names of the columns that are read."""

_WORDS: dict[Side, tuple[str, ...]] = {
    "train": ("train", "training", "trainset"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "testset", "eval", "evaluation", "heldout"),
}


@dataclass(frozen=True)
class Reading:
    """Which part of the data is read, and what its fields are called.

    Attributes:
        columns: Names of the columns and of the keys of messages in the data, by the names that this package knows,
            such as `{"prompt": "question", "role": "from"}`; None leaves out a field.
        split: Split to train on; None takes the one that is called train, or everything if there are no splits.
        val_split: Split to hold out; None takes validation, or test if there is no validation.
        config_name: Configuration of a Hugging Face data set that has several.
    """

    columns: Mapping[str, str | None] | None = None
    split: str | None = None
    val_split: str | None = None
    config_name: str | None = None

    def __post_init__(self) -> None:
        """Checks the names.

        Raises:
            UserError: If a name is unknown, or one split is both trained on and held out.
        """
        columns = dict(self.columns or {})
        known = (*COLUMNS, *MESSAGE_KEYS)
        for usual, other in columns.items():
            if usual not in known or not isinstance(other, str | None):
                raise UserError(
                    f"data.columns={{{usual}: {other}}}: expected the name of a column of your data, or null, for each "
                    f"of: {', '.join(known)}"
                )
        if self.split is not None and self.split == self.val_split:
            raise UserError(f"data.val_split={self.val_split} is also data.split: hold out another split")
        object.__setattr__(self, "columns", columns)

    @property
    def keys(self) -> dict[str, str | None]:
        """Names of the keys of messages in the data, by their usual names."""
        return {usual: other for usual, other in (self.columns or {}).items() if usual in MESSAGE_KEYS}

    @property
    def named(self) -> dict[str, str]:
        """Names of the columns of the data, by their usual names."""
        return {usual: other for usual, other in (self.columns or {}).items() if usual in COLUMNS and other is not None}

    def renamed(self, row: Mapping[str, object]) -> dict[str, object]:
        """Gives the columns of a row their usual names."""
        replaced = {usual for usual in self.columns or {} if usual in COLUMNS}
        known = {usual: row[other] for usual, other in self.named.items() if other in row}
        return {**known, **{k: v for k, v in row.items() if k not in replaced and k not in self.named.values()}}


class Chosen(NamedTuple):
    """The names of the splits that are trained on, that are held out, and that are not read."""

    train: list[str]
    held_out: list[str]
    others: list[str]


def side_of(name: str) -> Side | None:
    """Returns what a split is for, by the first word of its name that says so: `my_train_2` is for training."""
    for word in re.split("[^a-z]+", name.lower()):
        for side, words in _WORDS.items():
            if word in words:
                return side
    return None


def choose(names: Collection[str], reading: Reading, data: str, *, together: bool) -> Chosen:
    """Chooses among the splits of a data set.

    Args:
        names: The names of the splits; `""` stands for files whose names say nothing.
        reading: What the user wants.
        data: Name of the data, for messages.
        together: Whether several splits for training are read together, as parts of one data set.

    Raises:
        UserError: If a split does not exist, or if it is not clear which one is trained on.
    """
    if reading.split is not None:
        train = _named("split", names, reading, data)
    else:
        train = _for_training(names, reading, data, together)
    if reading.val_split is not None:
        held_out = _named("val_split", names, reading, data)
    else:
        held_out = held_out_of(names, train[0] if len(train) == 1 else "")
    held_out = [name for name in held_out if name not in train]
    return Chosen(train, held_out, [name for name in names if name not in (*train, *held_out)])


def _named(setting: str, names: Collection[str], reading: Reading, data: str) -> list[str]:
    """Finds the split of a setting: the one of this name, or else all that are for training, validation or tests."""
    wanted = getattr(reading, setting)
    found = [name for name in names if name == wanted] or [name for name in names if side_of(name) == wanted]
    if not found:
        listed = ", ".join(repr(name) for name in names if name)
        has = f"only {listed}" if listed else "no splits"
        raise UserError(f"data.{setting}={wanted}: '{data}' has no split '{wanted}', {has}")
    return found


def held_out_of(names: Collection[str], train: str) -> list[str]:
    """Finds the splits to hold out: those for validation, or else those for tests.

    Args:
        names: The names of the splits.
        train: The split that is trained on. `test_prefs` belongs to `train_prefs`, and no other split does.
    """
    rest = _rest(train) if side_of(train) == "train" else []
    for side in ("validation", "test"):
        found = [name for name in names if side_of(name) == side]
        if rest:
            found = [name for name in found if _rest(name) == rest]
        if found:
            return found
    return []


def _for_training(names: Collection[str], reading: Reading, data: str, together: bool) -> list[str]:
    names = [name for name in names if name != reading.val_split]
    if "train" in names and not together:
        return ["train"]
    for found in (
        [name for name in names if side_of(name) == "train"],
        [name for name in names if side_of(name) is None],
    ):
        if len(found) == 1 or (found and together):
            return found
        if found:
            break
    raise UserError(
        f"data '{data}' has the splits {', '.join(map(repr, names))}: say which one to train on, such as "
        f"data.split={(found or names)[0]}"
    )


def _rest(name: str) -> Sequence[str]:
    """The words of a name that do not say what the split is for."""
    every = {word for words in _WORDS.values() for word in words}
    return [word for word in re.split("[^a-z]+", name.lower()) if word and word not in every]
