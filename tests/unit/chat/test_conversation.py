"""A conversation: turns, the commands of the terminal, and what it shows."""

import io
import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lightning_rlhf.chat.commands import COMMANDS, HELP, run
from lightning_rlhf.chat.conversation import Conversation, save
from lightning_rlhf.chat.terminal import printable, talk
from lightning_rlhf.console import console
from lightning_rlhf.errors import UserError
from lightning_rlhf.interruption import Interrupted
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.rollout.speaker import Reply


class Echo:
    """A model that repeats the last turn word by word, with the number of its key; it refuses the word 'no'."""

    name = "echo"

    def __init__(self, stop_after: int | None = None, stop: int = signal.SIGINT) -> None:
        self.heard: list[list[Any]] = []
        self.keys: list[Any] = []
        self.stop_after, self.stop = stop_after, stop

    def stream(self, messages: Sequence[Any], sampling: Sampling, key: Any) -> Iterator[Reply]:
        self.heard.append(list(messages))
        self.keys.append(key)
        if messages[-1]["content"] == "no":
            raise UserError("the template refuses")
        words = [*messages[-1]["content"].split(), str(key.stream[1])]
        for count in range(1, len(words) + 1):
            if count == self.stop_after:
                raise Interrupted(self.stop)
            yield Reply(" ".join(words[:count]), count, "stop" if count == len(words) else None)


@pytest.fixture
def conversation() -> Conversation:
    return Conversation(Echo(), Sampling(max_new_tokens=9), seed=5)  # type: ignore[arg-type]


def said(conversation: Conversation) -> list[str]:
    return [turn["content"] for turn in conversation.turns]


def test_each_turn_is_read_with_all_before_it(conversation: Conversation) -> None:
    conversation.system = "Be kind."
    list(conversation.say("hello there"))
    list(conversation.say("and you"))
    heard = conversation.speaker.heard[-1]  # type: ignore[attr-defined]
    assert [turn["role"] for turn in heard] == ["system", "user", "assistant", "user"]
    assert [turn["content"] for turn in heard] == ["Be kind.", "hello there", "hello there 0", "and you"]
    assert said(conversation) == ["hello there", "hello there 0", "and you", "and you 1"]


def test_each_answer_has_its_own_random_numbers(conversation: Conversation) -> None:
    list(conversation.say("hello"))
    list(conversation.regenerate())
    assert said(conversation) == ["hello", "hello 1"]
    keys = conversation.speaker.keys  # type: ignore[attr-defined]
    assert len(set(keys)) == 2
    assert {key.seed for key in keys} == {5}


def test_an_answer_that_is_stopped_stays_as_long_as_it_is(conversation: Conversation) -> None:
    replies = conversation.say("one two three")
    next(replies)
    next(replies)
    replies.close()  # type: ignore[attr-defined]
    assert said(conversation) == ["one two three", "one two"]


def test_a_turn_that_the_model_cannot_read_is_taken_back(conversation: Conversation) -> None:
    list(conversation.say("hello"))
    with pytest.raises(UserError, match="the template refuses"):
        list(conversation.say("no"))
    assert said(conversation) == ["hello", "hello 0"]
    # The same holds if the answer is stopped before its first token.
    replies = conversation.say("wait")
    conversation.speaker.stop_after = 1  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        next(replies)
    assert said(conversation) == ["hello", "hello 0"]
    with pytest.raises(KeyboardInterrupt):
        list(conversation.regenerate())
    assert said(conversation) == ["hello", "hello 0"]


def test_undo_takes_back_a_turn_and_its_answer(conversation: Conversation) -> None:
    list(conversation.say("hello"))
    list(conversation.say("again"))
    assert run(conversation, "/undo") == "Took back: again"
    assert said(conversation) == ["hello", "hello 0"]
    run(conversation, "/new")
    for line, message in (("/undo", "/undo: nothing"), ("/regenerate", "there is no answer yet"), ("/save", "/save: ")):
        with pytest.raises(UserError, match=message):
            list(run(conversation, line))


def test_settings_change_from_the_next_answer_on(conversation: Conversation) -> None:
    assert run(conversation, "/temperature 0.25") == "The temperature is 0.25."
    assert conversation.sampling.temperature == 0.25
    assert run(conversation, "/temperature") == "The temperature is 0.25."
    for line, message in (
        ("/temperature warm", "expected a number"),
        ("/temperature -1", "temperature=-1.0: must not"),
    ):
        with pytest.raises(UserError, match=message):
            run(conversation, line)
    run(conversation, "/system  Be kind. ")
    assert conversation.system == "Be kind."
    assert run(conversation, "/system") == "There is no system prompt any more."
    assert conversation.messages == []


def test_a_saved_conversation_is_a_row_for_sft(conversation: Conversation, tmp_path: Path) -> None:
    file = tmp_path / "new" / "chats.jsonl"
    conversation.system = "Be kind."
    list(conversation.say("héllo"))
    assert run(conversation, f"/save {file}") == f"Saved in {file}."
    list(conversation.say("more"))
    save(conversation, file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [len(row["messages"]) for row in rows] == [3, 5]
    assert rows[0]["messages"][1] == {"role": "user", "content": "héllo"}
    with pytest.raises(UserError, match="cannot be written"):
        save(conversation, tmp_path / "new")


def test_the_help_names_every_command(conversation: Conversation) -> None:
    assert {usage.split()[0][1:] for usage in HELP} == {*COMMANDS, "quit"}
    with pytest.raises(UserError, match="there is no /temprature; /help shows what there is"):
        run(conversation, "/temprature 3")


def screen(conversation: Conversation, *lines: Any, score: Any = None, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the terminal shows while a user types lines; a line that is an error is raised."""
    shown = io.StringIO()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setattr(console, "_file", shown)
    given = iter(lines)

    def read(_: str) -> str:
        line = next(given, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    talk(conversation, score, read)
    return shown.getvalue()


def test_the_terminal_shows_answers_and_their_scores(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def score(messages: list[Any], finished: bool) -> float:
        seen.append((messages[-1]["content"], finished))
        return 1.5

    text = screen(
        conversation, "hello  there", "", "/nothing", "no", "/quit", "never", score=score, monkeypatch=monkeypatch
    )
    assert "hello there 0\nscore 1.5\n" in text
    assert "there is no /nothing" in text
    assert "the template refuses" in text
    assert "never" not in text
    assert seen == [("hello there 0", True)]


def test_ctrl_c_stops_an_answer_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = Conversation(Echo(stop_after=2), Sampling(max_new_tokens=9), seed=5)  # type: ignore[arg-type]
    finished: list[bool] = []
    text = screen(
        conversation,
        "one two three",
        Interrupted(signal.SIGINT),
        "/history",
        score=lambda messages, end: finished.append(end) or 0.0,
        monkeypatch=monkeypatch,
    )
    assert "one\n(stopped)" in text
    assert "Ctrl-D or /quit ends." in text
    assert "assistant: one\n" in text
    assert finished == [False]
    # Another signal ends the program.
    ended = Conversation(Echo(stop_after=2, stop=signal.SIGTERM), Sampling(max_new_tokens=9))  # type: ignore[arg-type]
    with pytest.raises(Interrupted):
        screen(ended, "one two", monkeypatch=monkeypatch)
    with pytest.raises(Interrupted):
        screen(conversation, Interrupted(signal.SIGTERM), monkeypatch=monkeypatch)


def test_ctrl_c_while_an_answer_is_scored_leaves_the_answer(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(*_: Any) -> float:
        raise Interrupted(signal.SIGINT)

    text = screen(conversation, "hello", "/history", score=score, monkeypatch=monkeypatch)
    assert "hello 0\n(not scored)\n" in text
    assert "assistant: hello 0\n" in text


def test_a_model_cannot_control_the_terminal() -> None:
    assert printable("a\x1b[31mred\x07\r\tb\n\x9b2J\x00é") == "a[31mred\tb\n2Jé"


class Typing(Echo):
    """A model that says a text letter by letter."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def stream(self, messages: Sequence[Any], sampling: Sampling, key: Any) -> Iterator[Reply]:
        for count in range(1, len(self.text) + 1):
            yield Reply(self.text[:count].rstrip(), count, "stop" if count == len(self.text) else None)


def drawn(output: str, width: int) -> list[str]:
    """The lines on a terminal, which breaks a line where it is full."""
    lines, column = [""], 0
    for character in output:
        if character == "\b":
            column -= 1
        elif character == "\n" or column == width:
            lines.append("")
            column = 0
        if character not in "\b\n":
            lines[-1] = lines[-1][:column] + character + lines[-1][column + 1 :]
            column += 1
        assert column >= 0
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("One two three fourteen five.", ["One two", "three", "fourteen", "five."]),
        ("def f():\n    return 1\n\nend", ["def f():", "    return", "1", "", "end"]),
        ("A supercalifragilistic word", ["A", "supercalifr", "agilistic", "word"]),
        ("exactlyten! and so", ["exactlyten!", "and so"]),
    ],
)
def test_a_streamed_line_breaks_between_words(text: str, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_force_terminal": True, "_width": 12}.items():
        monkeypatch.setattr(console, name, value)
    output = screen(Conversation(Typing(text), Sampling(max_new_tokens=9)), "hello", monkeypatch=monkeypatch)  # type: ignore[arg-type]
    # The greeting comes first.
    assert drawn(output, 12)[-len(lines) - 1 :] == [*lines, ""]
