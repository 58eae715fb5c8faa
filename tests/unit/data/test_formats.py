"""The layouts of rows: what each becomes, and the messages about wrong rows."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lightning_rlhf.data.fields import Message, Role
from lightning_rlhf.data.formats import Need, Record, Records, read_records
from lightning_rlhf.data.splits import Reading
from lightning_rlhf.errors import UserError


def turn(role: Role, content: str) -> Message:
    return {"role": role, "content": content}


QUESTION = turn("user", "Why?")
ANSWER = turn("assistant", "Because.")
BAD = turn("assistant", "Dunno.")


@pytest.fixture
def data(tmp_path: Path) -> Any:
    def write(*rows: dict[str, Any], name: str = "train.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def only(records: Records) -> Record:
    assert records.skipped == []
    (record,) = records.rows
    return record


ANSWERED: dict[str, dict[str, Any]] = {
    "prompt and completion": {"prompt": "Why?", "completion": "Because."},
    "prompt and completion as messages": {"prompt": [QUESTION], "completion": [ANSWER]},
    "messages": {"messages": [QUESTION, ANSWER]},
    "messages with a null column of another layout": {"messages": [QUESTION, ANSWER], "prompt": None, "chosen": None},
    "messages beside their first prompt": {"prompt": "Why?", "messages": [QUESTION, ANSWER]},
    "instruction": {"instruction": "Why?", "input": "", "output": "Because."},
    "instruction and response": {"instruction": "Why?", "response": "Because.", "context": ""},
    "ShareGPT": {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]},
    "ShareGPT with the usual keys": {"conversations": [QUESTION, ANSWER]},
    "an empty history and system prompt": {"prompt": "Why?", "completion": "Because.", "history": [], "system": " "},
    "instruction without input": {"instruction": "Why?", "output": "Because."},
    "ChatLLaMA": {"user_input": "Why?", "completion": "Because.", "score": None},
    "transcript and completion": {"prompt": "\n\nHuman: Why?\n\nAssistant:", "completion": "Because."},
}
PAIRS: dict[str, dict[str, Any]] = {
    "answers": {"prompt": "Why?", "chosen": "Because.", "rejected": "Dunno."},
    "answers as messages": {"prompt": "Why?", "chosen": [ANSWER], "rejected": [BAD]},
    "prompt as messages": {"prompt": [QUESTION], "chosen": [ANSWER], "rejected": [BAD]},
    "whole conversations": {"prompt": " Why? ", "chosen": [QUESTION, ANSWER], "rejected": [QUESTION, BAD]},
    "conversations without prompt": {"chosen": [QUESTION, ANSWER], "rejected": [QUESTION, BAD]},
    "transcripts": {
        "chosen": "\n\nHuman: Why?\n\nAssistant: Because.",
        "rejected": "\n\nHuman: Why?\n\nAssistant: Dunno.",
    },
    "a transcript and answers": {
        "prompt": "\n\nHuman: Why?\n\nAssistant:",
        "chosen": "Because.",
        "rejected": "Dunno.",
    },
    "messages and pairs as in LLaMA-Factory": {
        "conversations": [{"from": "human", "value": "Why?"}],
        "chosen": {"from": "gpt", "value": "Because."},
        "rejected": {"from": "gpt", "value": "Dunno."},
    },
    "a transcript and transcripts": {
        "prompt": "\n\nHuman: Why?\n\nAssistant:",
        "chosen": "\n\nHuman: Why?\n\nAssistant: Because.",
        "rejected": "\n\nHuman: Why?\n\nAssistant: Dunno.",
    },
}


@pytest.mark.parametrize("row", [*ANSWERED.values(), *PAIRS.values()], ids=[*ANSWERED, *PAIRS])
def test_every_layout_with_an_answer_serves_sft(data: Any, row: dict[str, Any]) -> None:
    record = only(read_records(data(row), "completion"))
    assert record.messages == [QUESTION, ANSWER]
    assert record.prompt == [QUESTION]
    assert record.rejected is None
    assert record.source == "train.jsonl:1"


@pytest.mark.parametrize("row", PAIRS.values(), ids=PAIRS)
def test_every_layout_of_pairs_gives_two_conversations(data: Any, row: dict[str, Any]) -> None:
    record = only(read_records(data(row), "pair"))
    assert record.messages == [QUESTION, ANSWER]
    assert record.rejected == [QUESTION, BAD]
    assert record.margin is None
    assert record.columns == {}


PROMPTS: dict[str, dict[str, Any]] = {
    "text": {"prompt": "Why?"},
    "messages as prompt": {"prompt": [QUESTION]},
    "transcript": {"prompt": "\n\nHuman: Why?\n\nAssistant:"},
    "unanswered messages": {"messages": [QUESTION]},
    "ChatLLaMA without completion": {"user_input": "Why?", "completion": "", "score": ""},
    "instruction without output": {"instruction": "Why?"},
    "a pair with an empty answer": {
        "chosen": "\n\nHuman: Why?\n\nAssistant:",
        "rejected": "\n\nHuman: Why?\n\nAssistant: Dunno.",
    },
}


@pytest.mark.parametrize("row", PROMPTS.values(), ids=PROMPTS)
def test_a_row_without_answer_serves_as_prompt_only(data: Any, row: dict[str, Any]) -> None:
    record = only(read_records(data(row), "prompt"))
    assert record.messages == record.prompt == [QUESTION]
    with pytest.raises(UserError, match="train.jsonl:1: field '.*stage=sft needs an answer|holds an empty answer"):
        read_records(data(row), "completion")


def test_an_answer_is_left_out_where_a_prompt_is_enough(data: Any) -> None:
    record = only(read_records(data({"prompt": "Why?", "completion": "Because."}), "prompt"))
    assert record.messages == [QUESTION]
    assert record.columns == {}


def test_instruction_and_input_are_one_question(data: Any) -> None:
    row = {"instruction": "Translate.", "input": "eins", "output": "one"}
    assert only(read_records(data(row), "completion")).prompt == [turn("user", "Translate.\n\neins")]


def test_turns_of_one_role_in_a_row_are_merged(data: Any) -> None:
    row = {
        "chosen": "\n\nHuman: Hi\n\nHuman: Why? \n\nAssistant: Well,\n\nAssistant: because.",
        "rejected": [turn("user", "Hi\n"), turn("user", "\nWhy?"), BAD],
    }
    record = only(read_records(data(row), "pair"))
    assert record.messages == [turn("user", "Hi\n\nWhy?"), turn("assistant", "Well,\n\nbecause.")]
    assert record.rejected == [turn("user", "Hi\n\nWhy?"), BAD]


def test_only_a_blank_line_begins_a_turn_of_a_transcript(data: Any) -> None:
    row = {"messages": "\n\nHuman: Say\nHuman: x\n\nAssistant: Human: x \nAssistant: y"}
    expected = [turn("user", "Say\nHuman: x"), turn("assistant", "Human: x \nAssistant: y")]
    assert only(read_records(data(row), "completion")).messages == expected


def test_an_answer_that_looks_like_a_transcript_stays_an_answer(data: Any) -> None:
    text = "Human: Why?\n\nAssistant: Because."
    record = only(read_records(data({"prompt": "Write a dialogue.", "completion": text}), "completion"))
    assert record.messages[-1] == turn("assistant", text)


def test_an_answer_may_repeat_the_prompt(data: Any) -> None:
    record = only(read_records(data({"prompt": "Why?", "chosen": "Why?", "rejected": "Dunno."}), "pair"))
    assert record.messages == [QUESTION, turn("assistant", "Why?")]


def test_space_around_texts_is_kept_for_templates_that_need_it(data: Any) -> None:
    record = only(read_records(data({"prompt": "TL;DR:", "completion": " short"}), "completion"))
    assert record.messages[-1]["content"] == " short"


def test_columns_that_no_layout_reads_are_for_reward_functions(data: Any) -> None:
    row = {"prompt": "Why?", "completion": "Because.", "score": 4, "truth": [1, 2], "id": "x", "empty": None}
    record = only(read_records(data(row), "score"))
    assert record.columns == {"truth": [1, 2], "id": "x"}
    assert record.score == 4.0


def test_a_csv_spells_its_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user_input,completion,score\nWhy?,Because.,4.5\n")
    assert only(read_records(str(tmp_path / "a.csv"), "score")).score == 4.5


@pytest.mark.parametrize(
    ("columns", "margin"), [({"margin": 1.5}, 1.5), ({"score_chosen": 4, "score_rejected": 2.5}, None)]
)
def test_a_margin_is_read_and_never_guessed_from_scores(
    data: Any, columns: dict[str, float], margin: float | None
) -> None:
    record = only(read_records(data(PAIRS["answers"] | columns), "pair"))
    assert record.margin == margin


PAIR = PAIRS["answers"]
WRONG: dict[str, tuple[Need, dict[str, Any], str]] = {
    "no rejected": (
        "pair",
        {"prompt": "Why?", "chosen": "Because."},
        "field 'rejected' is missing; stage=reward and dpo need prompt/chosen/rejected, or chosen/rejected transcripts",
    ),
    "no chosen": (
        "pair",
        {"prompt": "Why?", "rejected": "Dunno."},
        "field 'chosen' is missing; stage=reward and dpo need",
    ),
    "no pair": ("pair", {"prompt": "Why?", "completion": "x"}, "field 'chosen' is missing; stage=reward and dpo need"),
    "no transcripts": ("pair", {"chosen": "a", "rejected": "b"}, "field 'chosen' holds no answer of the assistant"),
    "a number": ("pair", PAIR | {"chosen": 3}, "field 'chosen' is a number (3), expected text"),
    "equal": ("pair", PAIR | {"rejected": "Because. "}, "fields 'chosen' and 'rejected' are equal"),
    "equal but for space": ("pair", PAIR | {"chosen": " Dunno."}, "fields 'chosen' and 'rejected' are equal"),
    "blank rejected": ("pair", PAIR | {"rejected": " \n"}, "field 'rejected' holds an empty answer"),
    "another prompt": (
        "pair",
        PAIR | {"chosen": [turn("user", "What?"), ANSWER]},
        "field 'chosen' begins with a user turn that is not in the prompt",
    ),
    "no answer": ("completion", {"prompt": "Why?"}, "field 'completion' is missing; stage=sft needs an answer"),
    "blank answer": ("completion", {"prompt": "Why?", "completion": " "}, "field 'completion' holds an empty answer"),
    "unanswered": ("completion", {"messages": [QUESTION]}, "field 'messages' holds no answer of the assistant"),
    "blank prompt": ("completion", {"prompt": "\n", "completion": "x"}, "the prompt is empty"),
    "no question": ("completion", {"messages": [ANSWER]}, "the prompt is empty"),
    "an answered prompt": ("prompt", {"prompt": [QUESTION, ANSWER]}, "field 'prompt' ends with an assistant turn"),
    "no messages": ("prompt", {"messages": []}, "field 'messages' is an empty list"),
    "a mere string": ("prompt", {"messages": ["Why?"]}, "field 'messages[0]' is text (\"Why?\"), expected an object"),
    "no content": ("prompt", {"messages": [{"role": "user"}]}, "field 'messages[0].content' is missing"),
    "an odd role": (
        "prompt",
        {"messages": [QUESTION, {"role": "narrator", "content": "x"}]},
        "field 'messages[1].role' is text (\"narrator\"), expected system, developer, user, assistant, tool, human",
    ),
    "odd content": (
        "prompt",
        {"messages": [{"role": "user", "content": ["x"]}]},
        "field 'messages[0].content[0]' is text (\"x\"), expected a part of type text",
    ),
    "half a character": ("prompt", {"prompt": "a\ud800"}, "field 'prompt' contains half a character"),
    "no score": ("score", {"user_input": "Why?", "completion": "x", "score": None}, "field 'score' is missing"),
    "a score in words": (
        "score",
        {"user_input": "Why?", "completion": "x", "score": "good"},
        "field 'score' is text (\"good\"), expected a finite number",
    ),
    "a true score": ("score", {"user_input": "Why?", "completion": "x", "score": True}, "expected a number"),
    "an infinite score": (
        "score",
        {"user_input": "Why?", "completion": "x", "score": float("inf")},
        "field 'score' is a number (Infinity), expected a finite number",
    ),
    "a huge score": ("score", {"user_input": "Why?", "completion": "x", "score": 10**400}, "expected a finite number"),
    "no layout": ("prompt", {"question": "Why?", "answer": "x"}, "columns question, answer are no known layout"),
}


@pytest.mark.parametrize(("need", "row", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_row_is_named_with_its_field(data: Any, need: Need, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        read_records(data(row), need)
    assert "\ntrain.jsonl:1: " in str(error.value)
    assert message in str(error.value)
    assert str(error.value).endswith("data.on_error=skip skips such rows")


def lines_of_error(path: str, need: Need) -> list[str]:
    with pytest.raises(UserError) as error:
        read_records(path, need)
    return str(error.value).splitlines()


def test_each_kind_of_fault_is_one_line_with_its_first_row_and_the_number_of_the_others(data: Any) -> None:
    rows = [{"prompt": "Why?"}, {"prompt": ""}, {"prompt": 1}, {"prompt": ""}, {"prompt": ["x"]}, {"prompt": 22}]
    path = data(*rows)
    with open(path, "a") as file:
        file.write("not JSON")
    _, empty, number, item, json, remedy = lines_of_error(path, "prompt")
    assert empty.startswith("train.jsonl:2: the prompt is empty")
    assert empty.endswith("(and 1 more such row)")
    assert number == "train.jsonl:3: field 'prompt' is a number (1), expected text (and 1 more such row)"
    assert item.startswith("train.jsonl:5: field 'prompt[0]' is text")
    assert json.startswith("train.jsonl:7: not valid JSON")
    assert remedy == "data.on_error=skip skips such rows"


def test_no_more_than_five_kinds_are_listed(data: Any) -> None:
    prompts: list[Any] = ["", 1, [], [1], [1]]
    lines = lines_of_error(data({"a": 1}, {"b": 1}, *({"prompt": prompt} for prompt in prompts)), "prompt")
    assert [line.partition(": ")[0] for line in lines[1:6]] == [f"train.jsonl:{n}" for n in range(1, 6)]
    assert lines[6] == "and 2 rows with other faults"


UNKNOWN: dict[str, tuple[Need, dict[str, Any], str, str]] = {
    "names that are guessed": (
        "completion",
        {"id": "7", "question": "Why?", "answer": "Because."},
        "  prompt, completion: prompt, completion missing",
        '"data.columns={prompt: question, completion: answer}"',
    ),
    "no names that say anything": (
        "completion",
        {"n": 1, "a": "Why?", "b": "Because."},
        "  instruction, output: instruction, output missing",
        '"data.columns={prompt: a, completion: b}"',
    ),
    "a name with a space": (
        "completion",
        {"prompt": "Why?", "The answer": "Because."},
        "  prompt, completion: completion missing",
        "\"data.columns={completion: 'The answer'}\"",
    ),
    "messages": (
        "completion",
        {"dialog": [QUESTION, ANSWER]},
        '  messages (a list of {"role": ..., "content": ...}): messages missing',
        '"data.columns={messages: dialog}"',
    ),
    "a pair": (
        "pair",
        {"prompt": "Why?", "winner": "Because.", "loser": "Dunno."},
        "  prompt, chosen, rejected: chosen, rejected missing",
        '"data.columns={chosen: winner, rejected: loser}"',
    ),
    "a score": (
        "score",
        {"prompt": "Why?", "completion": "Because.", "rating": 4},
        "  prompt, completion, score: score missing",
        '"data.columns={score: rating}"',
    ),
    "nothing that could be a prompt": (
        "prompt",
        {"n": 1},
        "  prompt: prompt missing",
        '"data.columns={prompt: NAME}"',
    ),
}


@pytest.mark.parametrize(("need", "row", "tried", "mapping"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_layout_says_what_was_tried_and_which_mapping_would_mend_it(
    data: Any, need: Need, row: dict[str, Any], tried: str, mapping: str
) -> None:
    lines = lines_of_error(data(row), need)
    assert "Layouts that were tried:" in lines
    assert tried in lines
    assert lines[-2] == f"Name the fields of your data: {mapping}"


@pytest.mark.parametrize("name", ["names that are guessed", "a name with a space", "messages", "a pair", "a score"])
def test_the_mapping_that_is_shown_mends_the_layout(data: Any, name: str) -> None:
    need, row, _, mapping = UNKNOWN[name]
    parsed = OverridesParser.create().parse_override(mapping.strip('"'))
    record = only(read_records(data(row), need, reading=Reading(columns=parsed.value())))
    assert record.messages == [QUESTION, ANSWER]


def test_names_that_are_right_stay_in_the_mapping_that_is_shown(data: Any) -> None:
    columns = {"prompt": "q", "completion": "anwser", "tools": None, "role": "who"}
    with pytest.raises(UserError) as error:
        read_records(data({"q": "Why?", "answer": "Because."}), "completion", reading=Reading(columns=columns))
    *_, absent, mapping, _ = str(error.value).splitlines()
    assert absent == "data.columns names 'anwser', which the row does not have"
    assert mapping.endswith('"data.columns={prompt: q, tools: null, role: who, completion: answer}"')


def test_layouts_are_not_listed_where_a_value_is_wrong(data: Any) -> None:
    assert not any("Layouts" in line for line in lines_of_error(data({"prompt": ""}), "prompt"))


def test_wrong_rows_can_be_skipped_and_are_reported(data: Any) -> None:
    records = read_records(data({"prompt": ""}, {"prompt": "Why?"}, {"prompt": 1}), "prompt", on_error="skip")
    assert [record.source for record in records.rows] == ["train.jsonl:2"]
    assert [message.split(": ")[0] for message in records.skipped] == ["train.jsonl:1", "train.jsonl:3"]


def test_skipping_every_row_is_an_error(data: Any) -> None:
    with pytest.raises(UserError, match="no other rows are left"):
        read_records(data({"prompt": ""}, {"prompt": 1}), "prompt", on_error="skip")


def test_a_column_that_no_row_has_is_told(data: Any) -> None:
    rows = [{"prompt": "Why?", "completion": "Because."}] * 2
    records = read_records(data(*rows), "completion", reading=Reading(columns={"system": "sytem"}))
    assert records.notes == {"rows without the column that data.columns names as system": 2}


def test_context_columns_are_part_of_the_conversation_and_reward_functions_may_read_them(data: Any) -> None:
    row = {
        "system": "Be short.",
        "history": '[["Hello", "Good day"]]',
        "instruction": "Translate.",
        "context": "eins",
        "response": "one",
        "id": 7,
    }
    records = read_records(data(row), "completion")
    assert only(records).messages == [
        *(Message(role="system", content="Be short."), turn("user", "Hello"), turn("assistant", "Good day")),
        *(turn("user", "Translate.\n\neins"), turn("assistant", "one")),
    ]
    assert only(records).columns == {name: row[name] for name in ("system", "history", "context", "id")}
    assert records.notes == {"column 'id' is not part of the conversation": 1}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"system": "Be kind.", "messages": [turn("system", "Be short."), QUESTION, ANSWER]}, "field 'system' differs"),
        ({"history": [["Hello"]], "prompt": "Why?", "completion": "So."}, "field 'history[0]' is not a pair"),
        ({"history": "Hello", "prompt": "Why?", "completion": "So."}, "field 'history' is text (\"Hello\")"),
        ({"history": [["a", "b"]], "messages": [QUESTION, ANSWER]}, "field 'history' stands beside 'messages'"),
    ],
)
def test_context_that_does_not_fit_is_refused_by_name(data: Any, row: dict[str, Any], words: str) -> None:
    assert words in lines_of_error(data(row), "completion")[1]


def test_a_history_stands_behind_the_system_turn_of_a_prompt(data: Any) -> None:
    row = {"prompt": [turn("system", "Be short."), QUESTION], "completion": "Because.", "history": [["Hi", "Hello"]]}
    talk = [turn("system", "Be short."), turn("user", "Hi"), turn("assistant", "Hello"), QUESTION, ANSWER]
    assert only(read_records(data(row), "completion")).messages == talk


def test_a_system_prompt_that_stands_twice_is_used_once(data: Any) -> None:
    row = {"system": "Be short.", "messages": [turn("system", "Be short."), QUESTION, ANSWER]}
    assert only(read_records(data(row), "completion")).messages == row["messages"]


def test_rows_that_cannot_be_read_are_skipped_like_others(tmp_path: Path) -> None:
    good = json.dumps({"prompt": "Why?"}).encode()
    deep = b'{"prompt": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([b"{", good, b'{"prompt": "\xff"}', b"[1]", deep]))
    records = read_records(str(tmp_path / "a.jsonl"), "prompt", on_error="skip")
    assert [record.source for record in records.rows] == ["a.jsonl:2"]
    assert [message.partition(": ")[0] for message in records.skipped] == [f"a.jsonl:{n}" for n in (1, 3, 4, 5)]
    (tmp_path / "a.csv").write_text("prompt,id\nWhy?,1\nWho?\n")
    assert read_records(str(tmp_path / "a.csv"), "prompt", on_error="skip").skipped == [
        "a.csv:3: found 1 columns, expected 2 as in the header"
    ]


def test_a_row_of_parquet_that_python_cannot_represent_is_skipped(tmp_path: Path) -> None:
    days = pa.array([0, 2**31 - 1, 1], pa.int32()).cast(pa.date32())
    texts = pa.array([b"Why?", b"Who?", b"\xff\xfe"]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": texts, "day": days}), tmp_path / "a.parquet")
    records = read_records(str(tmp_path / "a.parquet"), "prompt", on_error="skip")
    assert [record.messages for record in records.rows] == [[QUESTION]]
    assert [message.partition(" cannot")[0] for message in records.skipped] == [
        "a.parquet, row 2: field 'day'",
        "a.parquet, row 3: field 'prompt'",
    ]
