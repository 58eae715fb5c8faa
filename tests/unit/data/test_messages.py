"""Turns as they stand in data: other names of roles and keys, parts of a content, flags, and turns that are tidied."""

import json
from collections import Counter
from typing import Any

import pytest

from lightning_rlhf.data.faults import WrongRow
from lightning_rlhf.data.fields import Fields
from lightning_rlhf.data.formats import read_records
from lightning_rlhf.data.messages import Message, message_of, tidied
from lightning_rlhf.data.splits import Reading


def read(value: dict[str, Any], **keys: str | None) -> Any:
    return message_of(value, "messages[0]", keys)


SAME: dict[str, dict[str, Any]] = {
    "from and value": {"from": "human", "value": "Why?"},
    "parts": {"role": "user", "content": [{"type": "text", "text": "Why"}, {"text": "now?"}]},
    "keys with nothing in them": {"role": "user", "content": "Why?", "tool_calls": None, "name": "", "x": [], "y": {}},
}


@pytest.mark.parametrize("value", SAME.values(), ids=SAME)
def test_a_message_has_one_form_whatever_it_is_called(value: dict[str, Any]) -> None:
    content = "Why\nnow?" if value is SAME["parts"] else "Why?"
    assert read(value) == {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("role", "usual"),
    [
        ("gpt", "assistant"),
        ("human", "user"),
        ("model", "assistant"),
        ("observation", "tool"),
        ("developer", "developer"),
    ],
)
def test_roles_have_usual_names(role: str, usual: str) -> None:
    assert read({"role": role, "content": "x"})["role"] == usual


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_has_one_name_and_needs_no_content(key: str) -> None:
    assert read({"role": "assistant", key: "Hm."}) == {"role": "assistant", "content": "", "reasoning_content": "Hm."}


def test_the_user_names_keys_or_leaves_them_out() -> None:
    value = {"speaker": "gpt", "text": "So.", "reasoning_content": "Hm."}
    assert read(value, role="speaker", content="text", reasoning_content=None) == {
        "role": "assistant",
        "content": "So.",
    }
    # Other messages may have the usual names.
    assert read({"role": "user", "content": "Why?"}, role="speaker")["role"] == "user"


@pytest.mark.parametrize(
    ("flags", "learnt"),
    [({}, True), ({"weight": 1}, True), ({"train": True}, True), ({"weight": 0}, False), ({"weight": 0.0}, False),
     ({"train": False}, False), ({"train": None, "weight": None}, True), ({"train": False, "weight": 1}, False)],
)  # fmt: skip
def test_a_flag_says_whether_a_turn_is_learnt(flags: dict[str, Any], learnt: bool) -> None:
    message = read({"role": "assistant", "content": "So.", **flags})
    assert message.get("train", True) is learnt
    assert message.keys() <= {"role", "content", "train"}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "half a weight": ({"weight": 0.5}, r"field 'messages\[0\].weight' is a number \(0.5\), expected 0 or 1"),
    "a flag in words": ({"train": "no"}, r"field 'messages\[0\].train' is text \(\"no\"\)"),
    "an image": (
        {"content": [{"type": "image_url", "image_url": "x"}]},
        r"field 'messages\[0\].content\[0\]' is an object .*, expected a part of type text",
    ),
    "a role that is no text": (
        {"role": 3},
        r"field 'messages\[0\].role' is a number \(3\), expected system, developer",
    ),
    "no content": ({"content": None}, r"field 'messages\[0\].content' is missing"),
    "content that is a number": ({"content": 3}, r"field 'messages\[0\].content' is a number \(3\), expected text"),
}


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_message_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongRow, match=words):
        read({"role": "assistant", "content": "So.", **change})


SHAREGPT: dict[str, tuple[dict[str, Any], str]] = {
    "no role": ({"value": "x"}, r"field 'messages\[0\].role' is missing"),
    "an odd role": ({"from": "narrator", "value": "x"}, r"field 'messages\[0\].from' is text"),
    "no content": ({"from": "gpt", "value": None}, r"field 'messages\[0\].value' is missing"),
    "odd content": ({"from": "gpt", "value": [3]}, r"field 'messages\[0\].value\[0\]' is a number"),
    "mapped": ({"who": "narrator", "content": "x"}, r"field 'messages\[0\].who' is text"),
    "a mapped flag": ({"role": "user", "content": "x", "learn": 3}, r"field 'messages\[0\].learn' is a number"),
}


@pytest.mark.parametrize(("message", "words"), SHAREGPT.values(), ids=SHAREGPT)
def test_a_wrong_key_is_named_as_it_stands_in_the_data(message: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongRow, match=words):
        read(message, role="who" if "who" in message else "role", train="learn")


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_is_left_out_whatever_its_name_is(name: str) -> None:
    message = {"role": "assistant", "content": "So.", name: "Hm."}
    assert read(message)["reasoning_content"] == "Hm."
    assert read(message, reasoning_content=None) == {"role": "assistant", "content": "So."}


def turn(role: Any, content: str, **others: Any) -> Message:
    return {"role": role, "content": content, **others}  # type: ignore[typeddict-item]


def test_turns_are_tidied_by_clear_rules_and_counted() -> None:
    notes: Counter[str] = Counter()
    calls = [{"function": {"name": "weather"}}]
    turns = [
        turn("system", " "),
        turn("user", "Why?"),
        turn("user", "Quickly!"),
        turn("assistant", ""),
        turn("assistant", "", tool_calls=calls),
        turn("tool", "12"),
        turn("tool", "13"),
        turn("assistant", "So.", train=False),
        turn("assistant", "And so."),
        turn("user", "And?"),
        turn("assistant", ""),
    ]
    assert tidied(turns, notes) == [turn("user", "Why?\n\nQuickly!"), *turns[4:]]
    assert notes == {
        "empty turns of role system left out": 1,
        "empty turns of role assistant left out": 1,
        "turns of role user joined with the turn before": 1,
    }


def test_a_list_of_something_else_than_messages_is_no_list_of_turns() -> None:
    with pytest.raises(WrongRow, match=r"field 'messages\[1\]' is text"):
        Fields({"messages": [turn("user", "Why?"), "So."]}).turns("messages", "user")


@pytest.mark.parametrize("row", [
    {"messages": [turn("user", "Why?"), turn("assistant", "So.", weight=0)]},
    {"prompt": "Why?", "chosen": [turn("assistant", "So.", train=False)], "rejected": "No."},
])  # fmt: skip
def test_only_sft_asks_which_turns_are_learnt(row: dict[str, Any]) -> None:
    (record,) = read_records([row], "completion").rows
    assert record.messages[-1] == turn("assistant", "So.", train=False)
    if "chosen" in row:
        records = read_records([row], "pair")
        assert records.rows[0].messages[-1] == turn("assistant", "So.")
        assert records.notes == {"turns of weight 0 or train: false, which only sft uses": 1}


def test_the_names_of_keys_reach_the_messages_of_a_row() -> None:
    rows = [{"turns": [{"who": "human", "says": "Why?"}, {"who": "gpt", "says": "So."}]}]
    reading = Reading(columns={"messages": "turns", "role": "who", "content": "says"})
    (record,) = read_records(rows, "completion", reading=reading).rows
    assert record.messages == [turn("user", "Why?"), turn("assistant", "So.")]


@pytest.mark.parametrize("as_list", [False, True])
def test_a_function_call_of_sharegpt_is_a_call_of_a_tool(as_list: bool) -> None:
    call = {"name": "weather", "arguments": {"city": "Rome"}}
    value = json.dumps([call] if as_list else call)
    read = message_of({"from": "function_call", "value": value}, "conversations[1]", {})
    assert read == {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]}
    assert message_of({"from": "observation", "value": "22"}, "x", {}) == {"role": "tool", "content": "22"}


@pytest.mark.parametrize("value", ["weather(Rome)", "[]", "3", None, '{"arguments": {}}'])
def test_a_function_call_that_cannot_be_read_is_refused(value: object) -> None:
    with pytest.raises(WrongRow, match=r"^field 'x' has the role function_call and .*, expected .*\"name\""):
        message_of({"from": "function_call", "value": value}, "x", {})


LEFT_OUT: dict[str, dict[str, Any]] = {
    "a function call": {"from": "function_call", "value": '{"name": "weather", "arguments": {}}'},
    "a function call that cannot be read": {"from": "function_call", "value": "weather(Rome)"},
    "calls without a content": {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "weather"}}],
    },
}


@pytest.mark.parametrize("value", LEFT_OUT.values(), ids=LEFT_OUT)
def test_nothing_is_left_of_a_turn_that_only_calls_tools_if_calls_are_left_out(value: dict[str, Any]) -> None:
    assert read(value, tool_calls=None) == {"role": "assistant", "content": ""}
    row = {"conversations": [turn("user", "Rome?"), value, turn("assistant", "Warm.")]}
    (record,) = (found := read_records([row], "completion", reading=Reading(columns={"tool_calls": None}))).rows
    assert record.messages == [turn("user", "Rome?"), turn("assistant", "Warm.")]
    assert found.notes == {"empty turns of role assistant left out": 1}


def test_a_turn_without_a_content_is_refused_even_if_calls_are_left_out() -> None:
    with pytest.raises(WrongRow, match=r"^field 'messages\[0\].content' is missing$"):
        read({"role": "assistant", "content": None, "tool_calls": []}, tool_calls=None)


@pytest.mark.parametrize("key", ["tool_calls", "calls"])
def test_a_function_call_that_has_calls_beside_its_own_is_refused(key: str) -> None:
    value = {"from": "function_call", "value": '{"name": "weather"}', key: [{"function": {"name": "time"}}]}
    with pytest.raises(WrongRow, match=rf"^field 'messages\[0\].{key}' stands beside the call .* function_call"):
        read(value, **({} if key == "tool_calls" else {"tool_calls": key}))
    # Arrow gives all turns the same keys.
    assert read(value | {key: None})["tool_calls"] == [{"type": "function", "function": {"name": "weather"}}]
