"""Lists that were stored as text: JSON and literals of Python are parsed, and what is neither is never trained on."""

import json
from typing import Any

import pytest

from lightning_rlhf.data.formats import Need, read_records
from lightning_rlhf.data.splits import Reading
from lightning_rlhf.data.stored_text import parsed
from lightning_rlhf.errors import UserError

TALK = [{"role": "user", "content": 'It\'s "odd".\nWhy?'}, {"role": "assistant", "content": "So."}]
OTHER = [{"role": "assistant", "content": "No."}]
SHARED = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]


@pytest.mark.parametrize("stored", [json.dumps, repr, lambda turns: f"\n {json.dumps(turns, indent=1)} "])
@pytest.mark.parametrize("need", ["completion", "pair", "prompt"])
def test_messages_that_were_stored_as_text_are_messages(stored: Any, need: Need) -> None:
    rows = [{"prompt": stored(TALK[:1]), "chosen": stored(TALK[1:]), "rejected": stored(OTHER)}]
    (record,) = read_records(rows, need).rows
    assert record.messages == (TALK[:1] if need == "prompt" else TALK)
    assert record.rejected == ([TALK[0], *OTHER] if need == "pair" else None)


def test_a_single_message_and_other_names_of_keys_are_known_too() -> None:
    (record,) = read_records([{"prompt": "Why?", "completion": repr(OTHER[0])}], "completion").rows
    assert record.messages[1:] == OTHER
    (record,) = read_records([{"conversations": json.dumps(SHARED)}], "completion").rows
    assert [turn["content"] for turn in record.messages] == ["Why?", "So."]
    named = Reading(columns={"role": "who", "content": "says"})
    rows = [{"messages": repr([{"who": "user", "says": "Why?"}, {"who": "gpt", "says": "So."}])}]
    (record,) = read_records(rows, "completion", reading=named).rows
    assert [turn["content"] for turn in record.messages] == ["Why?", "So."]


BROKEN = {
    # NumPy prints no comma between items.
    "NumPy": "[{'content': 'Why?', 'role': 'user'}\n {'content': 'So.', 'role': 'assistant'}]",
    "an array": "array([{'content': 'So.', 'role': 'assistant'}], dtype=object)",
    "cut off": json.dumps(TALK)[:-9],
    "code": "[{'role': 'assistant', 'content': open('/etc/passwd').read()}]",
}


@pytest.mark.parametrize("field", ["prompt", "completion"])
@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_list_that_cannot_be_parsed_is_refused_by_name(text: str, field: str) -> None:
    row = {"prompt": "Why?", "completion": "So.", field: text}
    with pytest.raises(UserError, match=f"row 1: field '{field}' is a list of messages that was stored as text"):
        read_records([row], "completion")


@pytest.mark.parametrize(
    "text", ['[{"name": "x"}]', "[1, 2]", "{'a': 1}", 'Say [{"role": "user"}]', "[see above]", "['role', 'content']"]
)
def test_other_texts_stay_texts(text: str) -> None:
    (record,) = read_records([{"prompt": text, "completion": text}], "completion").rows
    assert [turn["content"] for turn in record.messages] == [text, text]


@pytest.mark.parametrize("tools", [[{"name": "weather"}], '[{"name": "weather"}]', ['{"name": "weather"}']])
def test_descriptions_of_tools_may_be_text(tools: Any) -> None:
    (record,) = read_records([{"prompt": "Why?", "completion": "So.", "tools": tools}], "completion").rows
    assert record.tools == [{"name": "weather"}]


def test_nothing_is_run_and_nothing_is_nested_without_end() -> None:
    assert parsed("__import__('os')") == "__import__('os')"
    assert parsed("[" * 100_000) == "[" * 100_000
