"""Turns of conversations as they stand in data: roles, contents, and what else a turn may have."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict, get_args

from lightning_rlhf.data.faults import WrongRow

Role = Literal["system", "developer", "user", "assistant", "tool"]

# Other names of roles, as in ShareGPT.
_ROLES: dict[str, Role] = {
    **{role: role for role in get_args(Role)},
    **{"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "observation": "tool"},
    "function_call": "assistant",
}
# Other names of the keys of a message, as in ShareGPT, and of the thought, as in chat templates.
_OTHER_NAMES = [("role", "from"), ("content", "value"), *(("reasoning_content", o) for o in ("reasoning", "thinking"))]
_FLAGS = ("train", "weight")
_SURROGATE = re.compile("[\ud800-\udfff]")

MESSAGE_KEYS = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name", *_FLAGS)
"""The keys of a message that `data.columns` may name, beside those that only a chat template reads."""


class Message(TypedDict):
    """One turn of a conversation. It may have further keys, which a chat template reads."""

    role: Role
    content: str
    reasoning_content: NotRequired[str]
    """What the assistant thought before its answer."""
    tool_calls: NotRequired[list[Any]]
    """Calls of tools by the assistant."""
    train: NotRequired[bool]
    """False if this turn of the assistant is not learnt; a missing key means True."""


def message_of(value: object, name: str, keys: Mapping[str, str | None]) -> Message:
    """Reads a message.

    Args:
        value: An item of a list of messages.
        name: Name of the item, for errors.
        keys: Names of the keys of messages in these data by their usual names; None leaves out a key.

    Raises:
        WrongRow: If it is no message.
    """
    if not isinstance(value, Mapping):
        raise WrongRow(f"field '{name}' is {described(value)}, expected an object with role and content")
    given, names = _usual(value, keys)
    role_name, content_name = (f"{name}.{names.get(key, key)}" for key in ("role", "content"))
    if given.get("role") is None:
        raise WrongRow(f"field '{role_name}' is missing")
    calls, without_calls = given["role"] == "function_call", "tool_calls" in keys and keys["tool_calls"] is None
    if calls:
        _name_calls(given, name, names, left_out=without_calls)
    role = _ROLES.get(given["role"]) if isinstance(given["role"], str) else None
    if role is None:
        raise WrongRow(
            f"field '{role_name}' is {described(given['role'])}, expected {', '.join(get_args(Role))}, human or gpt"
        )
    # Nothing is left of a turn that only calls tools, if the user leaves out the calls.
    empty = without_calls and (calls or value.get("tool_calls"))
    if (
        not (empty or any(given.get(key) for key in ("tool_calls", "reasoning_content")))
        and given.get("content") is None
    ):
        raise WrongRow(f"field '{content_name}' is missing")
    message: Any = {"role": role, "content": _content(given.get("content"), content_name)}
    if not _learnt(given, name, names):
        message["train"] = False
    others = {key: item for key, item in given.items() if key not in ("role", "content", *_FLAGS)}
    # Arrow gives all messages the same keys, and null to those that have none. Empty values say as little.
    message.update({key: item for key, item in others.items() if item not in (None, "", [], {})})
    return message


def is_plain(message: Message) -> bool:
    """Checks whether a turn consists of a content alone."""
    return message.keys() <= {"role", "content"}


def tidied(messages: list[Message], notes: Counter[str]) -> list[Message]:
    """Removes empty turns, and joins consecutive turns of the same role with a blank line.

    Few chat templates allow either. An empty last turn stays, since it stands for a missing answer. Turns that have
    more than a content, and the results of tools, stay as they are.

    Args:
        messages: The turns.
        notes: Counts the turns that were removed or joined.
    """
    result: list[Message] = []
    for number, message in enumerate(messages):
        if is_plain(message) and not message["content"].strip() and number < len(messages) - 1:
            notes[f"empty turns of role {message['role']} left out"] += 1
        elif result and _joins(result[-1], message):
            both = f"{result[-1]['content'].rstrip()}\n\n{message['content'].lstrip()}".strip()
            result[-1] = {"role": message["role"], "content": both}
            notes[f"turns of role {message['role']} joined with the turn before"] += 1
        else:
            result.append(message)
    return result


def text_of(value: object, name: str) -> str:
    """Checks that a value is text that a tokenizer accepts; raises `WrongRow` otherwise."""
    if not isinstance(value, str):
        raise WrongRow(f"field '{name}' is {described(value)}, expected text")
    if _SURROGATE.search(value):
        raise WrongRow(f"field '{name}' contains half a character (a lone surrogate), which no tokenizer accepts")
    return value


def described(value: object) -> str:
    """Describes a value in an error."""
    kinds = {str: "text", bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object"}
    try:
        shown = json.dumps(value, ensure_ascii=False, default=str)
    except (RecursionError, ValueError):
        shown = "nested too deeply to be shown"
    return f"{kinds.get(type(value), type(value).__name__)} ({shown if len(shown) <= 60 else shown[:60] + '...'})"


def _usual(value: Mapping[str, Any], keys: Mapping[str, str | None]) -> tuple[dict[str, Any], dict[str, str]]:
    """Gives the keys of a message their usual names, and returns the names that the data have for them."""
    given, names = dict(value), {}
    for usual, other in keys.items():
        if other is None:
            given.pop(usual, None)
        elif other in given:
            given[usual], names[usual] = given.pop(other), other
    for usual, other in _OTHER_NAMES:
        if usual in keys and keys[usual] is None:
            given.pop(other, None)
        elif given.get(usual) is None and other in given:
            given[usual], names[usual] = given.pop(other), other
    return given, names


def _name_calls(given: dict[str, Any], name: str, names: Mapping[str, str], *, left_out: bool) -> None:
    """Turns the content of a turn of ShareGPT's role `function_call` into `tool_calls`, unless these are left out."""
    content = given.pop("content", None)
    if given.get("tool_calls"):
        where = f"{name}.{names.get('tool_calls', 'tool_calls')}"
        raise WrongRow(f"field '{where}' stands beside the call in a turn of the role function_call, expected only one")
    if not left_out:
        given["tool_calls"] = _calls(content, name)


def _calls(value: object, name: str) -> list[Any]:
    """Reads the calls of a turn of ShareGPT's role `function_call`, which are JSON: an object, or a list of objects."""
    try:
        read = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        read = None
    calls: list[Any] = read if isinstance(read, list) else [read]
    if not calls or not all(isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls):
        raise WrongRow(
            f"field '{name}' has the role function_call and {described(value)}, expected "
            '{"name": ..., "arguments": {...}} or a list of these'
        )
    return [{"type": "function", "function": dict(call)} for call in calls]


def _content(value: object, name: str) -> str:
    """Reads the content of a message, whose parts of text are joined as vLLM joins them, with a newline."""
    if value is None:
        return ""
    if not isinstance(value, list | tuple):
        return text_of(value, name)
    texts = []
    for number, part in enumerate(value):
        if not isinstance(part, Mapping) or part.get("type", "text") != "text":
            raise WrongRow(f"field '{name}[{number}]' is {described(part)}, expected a part of type text")
        texts.append(text_of(part.get("text"), f"{name}[{number}].text"))
    return "\n".join(texts)


def _learnt(given: Mapping[str, Any], name: str, names: Mapping[str, str]) -> bool:
    """Reads the flags that say whether a turn is learnt: `train`, and `weight` as in OpenAI's data."""
    for key in _FLAGS:
        value = given.get(key)
        if value is not None and value not in (0, 1):
            where = f"{name}.{names.get(key, key)}"
            raise WrongRow(f"field '{where}' is {described(value)}, expected 0 or 1, or a truth value")
        if value is not None and not value:
            return False
    return True


def _joins(one: Message, other: Message) -> bool:
    return one["role"] == other["role"] != "tool" and is_plain(one) and is_plain(other)
