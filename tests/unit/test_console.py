"""What a run prints: on terminals of any width, elsewhere, and in its log."""

import io
import logging
import sys

import pytest
from rich.table import Table

from lightning_rlhf.console import Messages, RunConsole, TimedLines, complain, number, three_decimals
from lightning_rlhf.console import console as shared
from lightning_rlhf.run_log import LOG

WIDTHS = [100, 61, 30, 14]


def on_terminal(width: int) -> RunConsole:
    console = RunConsole(force_terminal=True, width=width, color_system=None, highlight=False)
    console.file = io.StringIO()
    return console


def printed(console: RunConsole) -> list[str]:
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_message_breaks_between_words_only(width: int) -> None:
    message = "only 0.0625 of 1,234,567 responses end by themselves: see /a/path/that/is/longer/than/any/line/here.txt"
    console = on_terminal(width)
    console.say(message)
    assert " ".join(printed(console)) == message
    assert all(len(line) <= width or " " not in line for line in printed(console))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_label_and_its_value_stay_on_one_line(width: int) -> None:
    console = on_terminal(width)
    cells = [("loss", "6.25"), ("lr", "1e-06"), ("samples/s", "123")]
    console.cells("epoch 1/2", cells)
    lines = [line.strip() for line in printed(console)]
    assert [cell for line in lines for cell in line.split("  ")] == [
        "epoch 1/2",
        "loss 6.25",
        "lr 1e-06",
        "samples/s 123",
    ]
    assert all(len(line) <= width or "  " not in line.strip() for line in printed(console))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_number_in_a_table_is_whole_at_any_width(width: int) -> None:
    console, table = on_terminal(width), Table(box=None)
    for name in ("model", "parameters", "weights", "gradients, optimizer"):
        table.add_column(name)
    table.add_row("actor", "6,738.42 M", "12.6 GiB", "37.7 GiB")
    console.table(table)
    text = " ".join(" ".join(printed(console)).split())
    assert all(number in text for number in ("6,738.42 M", "12.6 GiB", "37.7 GiB"))


def test_a_narrow_table_leaves_out_what_a_row_does_not_have() -> None:
    console, table = on_terminal(30), Table(box=None)
    for name in ("run", "status", "loss", "response_length"):
        table.add_column(name)
    table.add_row("0", "finished", "6.62", "46.9")
    table.add_row("1", "diverged", "", "")
    console.table(table)
    # A line may break between two cells.
    words = " ".join(" ".join(printed(console)).split())
    assert words == "run 0 status finished loss 6.62 response_length 46.9 run 1 status diverged"


def test_nothing_breaks_where_there_is_no_terminal() -> None:
    console = RunConsole(width=20, highlight=False)
    console.file = io.StringIO()
    console.say("word " * 50)
    console.cells("title", [("label", "value")] * 50)
    table = Table("a" * 30, "b" * 30, box=None)
    table.add_row("c" * 30, "d" * 30)
    console.table(table)
    # The table has two lines.
    assert len(printed(console)) == 4


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (-7e-5, "0"),
        (4.9e-4, "0"),
        (-0.0, "0"),
        (5e-4, "0.0005"),
        (0.0312, "0.0312"),
        (-1.5, "-1.5"),
        (12345.6, "12,346"),
    ],
)
def test_a_tiny_number_is_0_and_a_large_one_has_no_exponent(value: float, expected: str) -> None:
    assert number(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(-0.0004, "0.000"), (-0.0, "0.000"), (-0.0006, "-0.001"), (2.0, "2.000")]
)
def test_three_decimals_of_nothing_have_no_sign(value: float, expected: str) -> None:
    assert three_decimals(value) == expected


def test_numbers_that_are_not_finite_are_said_as_they_are() -> None:
    assert [number(float(name)) for name in ("nan", "inf", "-inf")] == ["nan", "inf", "-inf"]


def test_the_log_has_whole_lines_without_colours(tmp_path) -> None:  # type: ignore[no-untyped-def]
    console = RunConsole(force_terminal=True, width=20, color_system="truecolor", highlight=False)
    console.file = io.StringIO()
    LOG.start()
    LOG.open(tmp_path / "train.log")
    console.say("one message that is longer than twenty columns", style="red")
    console.cells("epoch 1/2", [("loss", "6.25"), ("samples/s", "123")])
    console.print("[bold]bold[/]")
    LOG.start()
    lines = [line.split(" ", 2)[2] for line in (tmp_path / "train.log").read_text().splitlines()]
    assert lines == ["one message that is longer than twenty columns", "epoch 1/2  loss 6.25  samples/s 123", "bold"]


def test_messages_of_other_processes_are_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning_utilities.core.rank_zero import rank_zero_only

    from lightning_rlhf.console import Messages

    record = logging.LogRecord("a", logging.WARNING, "file", 1, "said %d times", (2,), None)
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    Messages().emit(record)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    Messages().emit(record)
    assert capsys.readouterr() == ("", "said 2 times\n")


def test_a_message_on_a_terminal_is_not_logged_by_the_console_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_rlhf import console as module

    shown = RunConsole(force_terminal=True, width=80, highlight=False)
    shown.file = io.StringIO()
    monkeypatch.setattr(module, "console", shown)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    logged: list[str] = []
    monkeypatch.setattr(LOG, "write", logged.append)
    module.Messages().emit(logging.LogRecord("a", logging.INFO, "file", 1, "said", (), None))
    assert shown.file.getvalue() == "said\n"
    # The handler of the log writes each record itself, on all processes.
    assert logged == []


def test_without_a_terminal_lines_come_from_time_to_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    lines = TimedLines()
    lines.say("too early")
    monkeypatch.setattr("lightning_rlhf.console._SECONDS_PER_LINE", 0.0)
    lines.say("3 of 7")
    assert capsys.readouterr().out == "3 of 7\n"


def test_what_a_server_or_a_model_says_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    said = "a\x1b]0;title\x07\x1b[2J\rb\x9b31m\u202egnp.\ud800 éc"
    shown = "a\\x1b]0;title\\x07\\x1b[2J\\rb\\x9b31m\\u202egnp.\\ud800 éc\n"
    complain(said)
    assert capsys.readouterr().err == shown
    shared.say(said)
    assert capsys.readouterr().out == shown
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s", (said,), None)
    Messages().emit(record)
    assert capsys.readouterr().err == shown
