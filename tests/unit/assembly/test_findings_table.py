"""The printed table of findings."""

from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from lightning_rlhf.assembly.findings_table import show, sum_up
from lightning_rlhf.checks.finding import Finding

LONG = "longer " * 30 + "[Errno 1] end"


def test_away_from_a_terminal_a_finding_is_one_line_and_its_remedy_another(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    show("sft", [Finding("labels", "ok", LONG), Finding("EOS in the labels", "error", "none\nat all", "another one")])
    assert capsys.readouterr().out.splitlines() == [
        "sft",
        "  ok       labels             " + LONG,
        "  error    EOS in the labels  none",
        "                              at all",
        "                              another one",
        "",
    ]


def test_on_a_terminal_lines_are_folded_beside_the_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = partial(Console, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr("lightning_rlhf.assembly.findings_table.Console", terminal)
    show("sft", [Finding("labels", "ok", LONG)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert max(map(len, lines)) <= 80
    assert all(line.startswith(" " * 19) for line in lines[2:-1])


def test_the_sum_counts_each_kind(capsys: pytest.CaptureFixture[str]) -> None:
    sum_up(["ok", "error", "ok"], Path("result.json"))
    assert capsys.readouterr().out.splitlines() == ["2 ok, 0 warning, 1 error", "  result    result.json"]
