"""The command that draws cards and comparisons: what it writes where, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
from run_folders import write_run

from lightning_rlhf.assembly.report import page_of_sweep, report
from lightning_rlhf.errors import UserError


def draw(runs: str | list[str], **settings: Any) -> Path | None:
    defaults: dict[str, Any] = {"output": None, "follow": False, "host": "127.0.0.1", "port": 0, "every": 5.0}
    return report(runs, **{**defaults, **settings})


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for number in range(2):
        write_run(tmp_path / "sweep" / str(number), metrics={"score": float(number)})
    return tmp_path / "sweep"


def test_one_run_gets_its_card_and_several_a_page_beside_them(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert draw(str(sweep / "0")) == sweep / "0" / "report.html"
    assert "run card" in (sweep / "0" / "report.html").read_text()
    assert draw(str(sweep)) == sweep / "comparison.html"
    assert "2 runs" in (sweep / "comparison.html").read_text()
    assert not (sweep / "1" / "report.html").exists()
    assert capsys.readouterr().out.splitlines()[-1] == f"report in {sweep / 'comparison.html'}"


def test_paths_in_the_current_folder_stay_relative(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sweep.parent)
    assert draw("sweep") == Path("sweep/comparison.html")
    monkeypatch.chdir(sweep)
    assert draw(["0", "1"]) == Path("comparison.html")


def test_a_file_that_is_named_gets_the_page_with_links_that_work_from_there(sweep: Path, tmp_path: Path) -> None:
    draw(str(sweep / "0"))
    target = tmp_path / "mine.html"
    assert draw(str(sweep), output=str(target)) == target
    assert 'href="./sweep/0/report.html"' in target.read_text()
    assert not (sweep / "comparison.html").exists()


def test_all_wrong_settings_are_named_together_and_nothing_is_written(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        draw(str(sweep), output=str(tmp_path / "none" / "x.html"), follow=True, every=0.0)
    assert [line.partition(":")[0].partition("=")[0] for line in str(error.value).splitlines()] == [
        "output",
        "every",
        "output",
    ]
    with pytest.raises(UserError, match="is a folder; name a file such as comparison.html"):
        draw(str(sweep), output=str(sweep))
    assert not list(tmp_path.rglob("*.html"))


def test_a_port_that_is_taken_is_said_before_anything_is_read(sweep: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="choose another port or host"):
        draw(str(sweep), follow=True, port=taken.getsockname()[1])


def test_a_sweep_without_runs_of_training_has_no_page(tmp_path: Path) -> None:
    write_run(tmp_path / "0", "benchmark")
    assert page_of_sweep(tmp_path) is None
    write_run(tmp_path / "1", "sft")
    assert page_of_sweep(tmp_path) == tmp_path / "comparison.html"
