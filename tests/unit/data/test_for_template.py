"""What a chat template does not read is refused by name, or left out and counted."""

import datetime
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from lightning_rlhf.data.faults import WrongRow
from lightning_rlhf.data.for_template import for_template
from lightning_rlhf.data.formats import Record
from lightning_rlhf.data.kinds import demonstrations
from lightning_rlhf.data.pairs import PAIRS
from lightning_rlhf.data.prepare import prepare
from lightning_rlhf.data.prompts import PROMPT
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.sources import source_of
from lightning_rlhf.data.splits import Reading
from lightning_rlhf.errors import UserError

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]

TOOLS = (
    "{% if tools %}{{ 'You have ' + tools[0].name + '.' }}{% endif %}{% for m in messages %}"
    "{{ '<' + m.role + '>' }}{% if m.role == 'tool' %}{{ '=' }}{% endif %}"
    "{% if m.role == 'developer' %}{{ '!' }}{% endif %}"
    "{% if m['reasoning'] %}{{ '(' + m['reasoning'] + ')' }}{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ '@' + call.name }}{% endfor %}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
NO_SYSTEM = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"


def turn(role: str, content: str, **others: Any) -> Any:
    return {"role": role, "content": content, **others}


TALK = [
    turn("developer", "Be short."),
    turn("user", "Warm?"),
    turn("assistant", "", tool_calls=[{"name": "weather"}], reasoning_content="Hm."),
    turn("tool", "12"),
    turn("assistant", "Cold."),
]


def fitted(renderer: Renderer, *messages: Any, tools: list[Any] | None = None) -> tuple[Any, dict[str, int]]:
    notes: Counter[str] = Counter()
    record = Record(list(messages), None, None, None, {}, "x:1", tools or [])
    return for_template(record, renderer.traits, notes).messages, dict(notes)


def test_a_template_gets_what_it_reads(make_tokenizer: MakeTokenizer) -> None:
    renderer = Renderer(make_tokenizer(), TOOLS)
    rows = [{"messages": TALK, "tools": [{"name": "weather"}]}]
    (row,) = prepare(rows, demonstrations(), renderer, "raise").rows
    text = "You have weather.<developer>!Be short.<user>Warm?<assistant>(Hm.)@weather</s><tool>=12<assistant>Cold.</s>"
    assert renderer.tokenizer.decode(row.ids) == text
    learnt = [token for token, label in zip(row.ids, row.loss_mask, strict=True) if label]
    assert renderer.tokenizer.decode(learnt) == "(Hm.)@weather</s>Cold.</s>"
    (prompt,) = prepare(rows, PROMPT, renderer, "raise").rows
    assert renderer.tokenizer.decode(prompt.ids) == text.removesuffix("Cold.</s>")
    assert prompt.text == "Warm?"
    pairs = [{"prompt": TALK[:-1], "chosen": "Cold.", "rejected": "No.", "tools": [{"name": "weather"}]}]
    (pair,) = prepare(pairs, PAIRS, renderer, "raise").rows
    assert renderer.tokenizer.decode(pair.chosen.ids) == text
    assert renderer.tokenizer.decode(pair.rejected.ids) == text.replace("Cold.", "No.")


def test_a_thought_goes_where_the_generation_prompt_begins_one(make_tokenizer: MakeTokenizer) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<think>\n{% endif %}"
    talk = [turn("user", "Warm?"), turn("assistant", "Cold.", reasoning_content="Hm.")]
    assert fitted(Renderer(make_tokenizer(), template), *talk) == (talk, {})


REFUSED: dict[str, tuple[list[Any], list[Any], str]] = {
    "tools": (TALK[1:2], [{"name": "weather"}], r"does not read 'tools': .* \"data.columns={tools: null}\""),
    "calls": ([TALK[1], turn("assistant", "", tool_calls=[{"name": "weather"}])], [], "does not read 'tool_calls'"),
    "results": ([TALK[1], TALK[3]], [], "has no role 'tool'"),
    "a thought": (
        [TALK[1], turn("assistant", "So.", reasoning_content="Hm.")],
        [],
        "does not read 'reasoning_content': .* between <think> and </think>",
    ),
}


@pytest.mark.parametrize(("messages", "tools", "words"), REFUSED.values(), ids=REFUSED)
def test_what_the_conversation_needs_is_refused_by_name(
    make_tokenizer: MakeTokenizer, messages: list[Any], tools: list[Any], words: str
) -> None:
    with pytest.raises(WrongRow, match=words):
        fitted(Renderer(make_tokenizer()), *messages, tools=tools)


def test_a_developer_speaks_as_the_system_where_the_template_has_no_such_role(make_tokenizer: MakeTokenizer) -> None:
    talk, notes = fitted(Renderer(make_tokenizer()), turn("system", "Be kind."), TALK[0], TALK[1])
    assert talk == [turn("system", "Be kind.\n\nBe short."), TALK[1]]
    assert notes["turns of role developer given to the chat template as system"] == 1


def test_a_template_without_a_place_for_the_system_is_told_of(make_tokenizer: MakeTokenizer) -> None:
    renderer = Renderer(make_tokenizer(), NO_SYSTEM)
    assert fitted(renderer, TALK[1]) == ([TALK[1]], {})
    with pytest.raises(WrongRow, match="leaves out system turns"):
        fitted(renderer, turn("system", "Be kind."), TALK[1])


def test_other_keys_are_left_out_and_counted(make_tokenizer: MakeTokenizer) -> None:
    talk = [turn("user", "Why?", id=1), turn("assistant", "So.", id=2, train=False, at=datetime.date(2020, 1, 1))]
    left, notes = fitted(Renderer(make_tokenizer()), *talk)
    assert left == [turn("user", "Why?"), turn("assistant", "So.", train=False)]
    assert notes == {
        "key 'id' of messages left out, since the chat template does not read it": 2,
        "key 'at' of messages left out, since the chat template does not read it": 1,
    }


def test_a_value_that_no_template_can_get_is_refused(make_tokenizer: MakeTokenizer) -> None:
    calls = [{"name": "weather", "day": datetime.date(2020, 1, 1)}]
    with pytest.raises(WrongRow, match="cannot be given to the chat template .*date is not JSON"):
        fitted(Renderer(make_tokenizer(), TOOLS), turn("user", "Why?"), turn("assistant", "", tool_calls=calls))


def test_what_the_template_does_not_read_can_be_left_out(make_tokenizer: MakeTokenizer) -> None:
    rows = [{"messages": [TALK[1], turn("assistant", "So.", reasoning_content="Hm.")], "tools": [{"name": "x"}]}]
    reading = Reading(columns={"tools": None, "reasoning_content": None})
    renderer = Renderer(make_tokenizer())
    (row,) = prepare(source_of(rows, reading), demonstrations(), renderer, "raise").rows
    assert renderer.tokenizer.decode(row.ids) == "\n\nHuman: Warm?\n\nAssistant: So.</s>"


REFUSES = "{% if messages[0].content == 'no' %}{{ raise_exception('a no') }}{% endif %}" + NO_SYSTEM
KINDS: dict[str, Any] = {"sft": demonstrations(), "prompts": PROMPT, "pairs": PAIRS}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_the_template_refuses_are_named_once_or_skipped(make_tokenizer: MakeTokenizer, kind: str) -> None:
    renderer = Renderer(make_tokenizer(), REFUSES)
    prompts = ["yes", "no", "maybe", "no"]
    rows = [{"prompt": prompt, "chosen": f"so {n}", "rejected": "x", "n": n} for n, prompt in enumerate(prompts)]
    prepared = prepare(rows, KINDS[kind], renderer, "skip")
    assert [line.partition(":")[0] for line in prepared.report.skipped] == ["list, row 2", "list, row 4"]
    assert (prepared.report.read, len(prepared.rows), len(prepared.positions)) == (4, 2, 2)
    if kind == "prompts":
        assert [row.columns["n"] for row in prepared.rows] == [0, 2]
    with pytest.raises(
        UserError,
        match=r"list, row 2: the chat template refuses .*: a no \(and 1 more such row\)\n"
        r"data.template=FILE.jinja sets another chat template, which may accept them\ndata.on_error=skip skips",
    ):
        prepare(rows, KINDS[kind], renderer, "raise")
    with pytest.raises(UserError, match="no other rows are left"):
        prepare(rows[1:2], KINDS[kind], renderer, "skip")


def test_a_hint_about_the_layout_stays_beside_that_about_the_template(make_tokenizer: MakeTokenizer) -> None:
    rows = [{"prompt": "no", "completion": "so"}, {"ask": "Why?", "reply": "So."}]
    with pytest.raises(UserError) as caught:
        prepare(rows, demonstrations(), Renderer(make_tokenizer(), REFUSES), "skip")
    assert str(caught.value).splitlines()[-3:] == [
        'Name the fields of your data: "data.columns={prompt: ask, completion: reply}"',
        "data.template=FILE.jinja sets another chat template, which may accept them",
        "no other rows are left",
    ]


@pytest.mark.parametrize("flag", [{"weight": 0}, {"train": False}])
def test_a_turn_that_is_masked_is_read_but_not_learnt(make_tokenizer: MakeTokenizer, flag: dict[str, Any]) -> None:
    talk = [turn("user", "Why?"), turn("assistant", "So.", **flag), turn("user", "Sure?"), turn("assistant", "Yes.")]
    renderer = Renderer(make_tokenizer())
    (row,) = prepare([{"messages": talk}], demonstrations(), renderer, "raise").rows
    learnt = [token for token, label in zip(row.ids, row.loss_mask, strict=True) if label]
    assert renderer.tokenizer.decode(learnt) == " Yes.</s>"
    assert "So." in renderer.tokenizer.decode(row.ids)
    with pytest.raises(UserError, match="no token to learn: no answer has a weight above 0"):
        prepare([{"messages": talk[:2]}], demonstrations(), renderer, "raise")
