"""Fits records to the chat template: what it does not read is refused by name, or left out and counted."""

import json
from collections import Counter
from dataclasses import replace
from typing import Any

from lightning_rlhf.data.faults import WrongRow
from lightning_rlhf.data.formats import Record
from lightning_rlhf.data.messages import Message, tidied
from lightning_rlhf.data.thoughts import REASONING
from lightning_rlhf.data.traits import Traits

_REMEDY = 'set a data.template that reads it, or leave it out with "data.columns={{{}: null}}"'


def for_template(record: Record, traits: Traits, notes: Counter[str]) -> Record:
    """Fits the conversations of a record to the chat template.

    Args:
        record: The record.
        traits: What the template does with messages.
        notes: Counts what is left out and what is changed.

    Raises:
        WrongRow: If the template does not read something that the conversation needs.
    """
    if record.tools and "tools" not in traits.reads:
        raise WrongRow(f"the chat template does not read 'tools': {_REMEDY.format('tools')}")
    return replace(
        record,
        messages=_fitted(record.messages, traits, notes),
        rejected=None if record.rejected is None else _fitted(record.rejected, traits, notes),
    )


def _fitted(messages: list[Message], traits: Traits, notes: Counter[str]) -> list[Message]:
    if all(turn["role"] in ("user", "assistant") and turn.keys() <= {"role", "content"} for turn in messages):
        return messages
    return tidied([_fitted_turn(turn, traits, notes) for turn in messages], notes)


def _fitted_turn(message: Message, traits: Traits, notes: Counter[str]) -> Message:
    turn: Any = dict(message)
    if turn["role"] == "developer" and "developer" not in traits.reads:
        turn["role"] = "system"
        notes["turns of role developer given to the chat template as system"] += 1
    if turn["role"] == "system" and traits.ignores_system:
        raise WrongRow("the chat template leaves out system turns: set a data.template that reads them")
    if turn["role"] == "tool" and "tool" not in traits.reads:
        raise WrongRow("the chat template has no role 'tool': set a data.template that reads it")
    for key in sorted(turn.keys() - {"role", "content", "train"}):
        if key not in traits.reads:
            _without(turn, key, traits, notes)
    try:
        json.dumps(turn)
    except (TypeError, ValueError, RecursionError) as error:
        raise WrongRow(f"a turn of role '{turn['role']}' cannot be given to the chat template ({error})") from error
    return turn


def _without(turn: dict[str, Any], key: str, traits: Traits, notes: Counter[str]) -> None:
    """Takes a key that the template does not read out of a turn."""
    if key == "tool_calls":
        raise WrongRow(f"the chat template does not read '{key}': {_REMEDY.format(key)}")
    value = turn.pop(key)
    if key != "reasoning_content":
        notes[f"key '{key}' of messages left out, since the chat template does not read it"] += 1
        return
    name = next((name for name in REASONING if name in traits.reads), None)
    # If the generation prompt begins a thought, the answer continues with the thought of the data.
    if name is None and not traits.opens_thought:
        raise WrongRow(
            f"the chat template does not read '{key}': {_REMEDY.format(key)}, or write it into the content, between "
            "<think> and </think>"
        )
    turn[name or key] = value
