"""What to say about a row whose layout is unknown: which layouts were tried, and the mapping that would mend it."""

import re
from collections.abc import Mapping
from typing import Literal

from lightning_rlhf.data.fields import Fields
from lightning_rlhf.data.splits import Reading

Need = Literal["completion", "pair", "score", "prompt"]

_LAYOUTS: dict[Need, tuple[tuple[str, ...], ...]] = {
    "completion": (
        ("prompt", "completion"),
        ("messages",),
        ("conversations",),
        ("instruction", "output"),
        ("instruction", "response"),
        ("user_input", "completion"),
        ("prompt", "chosen"),
    ),
    "pair": (("prompt", "chosen", "rejected"), ("chosen", "rejected")),
    "score": (("prompt", "completion", "score"), ("user_input", "completion", "score")),
    "prompt": (("prompt",), ("messages",), ("conversations",), ("instruction",), ("user_input",), ("chosen",)),
}
_KINDS = {
    "messages": 'messages (a list of {"role": ..., "content": ...})',
    "conversations": 'conversations (a list of {"from": ..., "value": ...})',
}
# Names that people give to a field, the likeliest first.
_SYNONYMS = {
    "prompt": ("question", "query", "problem", "instruction", "input", "user", "source", "text"),
    "completion": ("answer", "response", "output", "reply", "solution", "assistant", "target", "label"),
    "chosen": ("accepted", "preferred", "better", "winner", "positive", "response_chosen", "good"),
    "rejected": ("dispreferred", "worse", "loser", "negative", "response_rejected", "bad"),
    "score": ("rating", "reward", "label", "grade"),
    "messages": ("conversation", "dialog", "dialogue", "chat", "turns", "message"),
}


def suggestion(fields: Fields, need: Need, reading: Reading) -> str:
    """Says which layouts were tried, which of their fields are missing, and which `data.columns` would mend that.

    Args:
        fields: The row.
        need: What the row must contain.
        reading: What the fields are called so far.
    """
    tried = []
    for layout in _LAYOUTS[need]:
        missing = [name for name in layout if name not in fields]
        shown = ", ".join(_KINDS.get(name, name) for name in layout)
        tried.append(f"  {shown}: {', '.join(missing)} missing" if missing else f"  {shown}: no usable value")
    lacking = [f"'{other}'" for usual, other in reading.named.items() if usual not in fields]
    absent = [f"data.columns names {', '.join(lacking)}, which the row does not have"] * bool(lacking)
    # The names that are right stay in the line to copy.
    right = {k: v for k, v in (reading.columns or {}).items() if k not in reading.named or k in fields}
    remedy = f"Name the fields of your data: {_line({**right, **mapping(fields, need)})}"
    return "\n".join(["Layouts that were tried:", *tried, *absent, remedy])


def mapping(fields: Fields, need: Need) -> dict[str, str]:
    """Guesses which fields of a row have the usual names that it lacks, by their names and their order."""
    lists = [name for name in fields.names() if name not in fields.texts()]
    if need in ("completion", "prompt") and (found := _named("messages", lists)):
        return {"messages": found}
    wanted = [name for name in _LAYOUTS[need][0] if name not in fields]
    free = [name for name in fields.names() if name not in _LAYOUTS[need][0]]
    guess = {name: found for name in wanted if (found := _named(name, free))}
    texts = (name for name in free if name in fields.texts() and name not in guess.values())
    return {name: guess.get(name) or next(texts, "NAME") for name in wanted}


def _named(usual: str, names: list[str]) -> str | None:
    by_lower = {name.lower(): name for name in names}
    return next((by_lower[synonym] for synonym in _SYNONYMS.get(usual, ()) if synonym in by_lower), None)


def _line(columns: Mapping[str, str | None]) -> str:
    pairs = ", ".join(f"{name}: {_quoted(other)}" for name, other in columns.items())
    return f'"data.columns={{{pairs}}}"'


def _quoted(name: str | None) -> str:
    """Quotes a name for Hydra, inside of double quotes for the shell."""
    if name is None:
        return "null"
    return name if re.fullmatch(r"\w+", name) else "'" + name.replace("'", "\\'") + "'"
