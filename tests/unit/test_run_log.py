"""`train.log`: what gets into it, from which process, and when."""

import io
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_rlhf.console import RunConsole, complain
from lightning_rlhf.errors import UserError
from lightning_rlhf.run_log import LOG, everything_logged

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


def lines(file: Path) -> list[str]:
    """The lines without their time stamps, which all must have."""
    found = file.read_text().splitlines()
    assert all(re.match(STAMP, line) for line in found)
    return [re.sub(STAMP, "", line, count=1) for line in found]


def test_everything_that_is_printed_is_logged_even_before_the_folder_exists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run" / "train.log"
    with everything_logged() as log:
        print("before")
        assert not file.parent.exists()
        log.open(file)
        print("a line", end="")
        print(" in two parts\n\nand another")
        print("  ")
        RunConsole(highlight=False).print("by the console")
        complain("the last message")
        print("10%\r20%\r30%", file=sys.stderr)
        logging.getLogger("lightning_rlhf.any").warning("a warning of %s", "ours")
    print("after")
    said = ["by the console", "the last message"]
    assert lines(file) == ["before", "a line in two parts", "and another", *said, "30%", "a warning of ours"]
    out = capsys.readouterr().out
    assert out == "before\na line in two parts\n\nand another\n  \nby the console\nafter\n"


def test_other_processes_say_their_rank_and_log_no_messages_but_warnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 3, raising=False)
    root = logging.getLogger()
    monkeypatch.setattr(root, "level", logging.INFO)
    with everything_logged() as log:
        log.open(tmp_path / "train.log")
        root.info("a message")
        root.warning("a warning")
        print("a print")
    assert lines(tmp_path / "train.log") == ["[rank 3] a warning", "[rank 3] a print"]


def test_a_defect_leaves_its_traceback_and_the_streams_are_restored(tmp_path: Path) -> None:
    streams = sys.stdout, sys.stderr

    def run() -> None:
        with everything_logged() as log:
            log.open(tmp_path / "train.log")
            raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        run()
    assert (sys.stdout, sys.stderr) == streams
    assert lines(tmp_path / "train.log")[0].startswith("Traceback")
    assert lines(tmp_path / "train.log")[-1] == "ValueError: a defect"


def test_a_run_that_goes_on_in_its_folder_appends(tmp_path: Path) -> None:
    for word in ("first", "second"):
        with everything_logged() as log:
            log.open(tmp_path / "train.log")
            print(word)
    assert lines(tmp_path / "train.log") == ["first", "second"]


def test_processes_that_write_at_the_same_time_leave_whole_lines(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lightning_rlhf.run_log import LOG; LOG.start(); "
        "LOG.open(Path(sys.argv[1])); [LOG.write(sys.argv[2] * 200) for _ in range(200)]"
    )
    file = tmp_path / "train.log"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(file), letter]) for letter in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert sorted(lines(file)) == ["a" * 200] * 200 + ["b" * 200] * 200


def test_nothing_is_kept_without_a_run() -> None:
    LOG.start()
    LOG.kept = False
    LOG.write("a line")
    assert not LOG._waiting


class Terminal(io.StringIO):
    """A stream that counts as a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("rank", "shown"), [(0, "a line\n"), (1, "")])
def test_only_the_first_process_prints_on_a_terminal_and_all_are_logged(
    rank: int, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", rank, raising=False)
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    with everything_logged() as log:
        log.open(tmp_path / "train.log")
        print("a line")
    assert terminal.getvalue() == shown
    assert lines(tmp_path / "train.log")[0].endswith("a line")


def test_a_stream_that_something_else_has_put_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    with everything_logged():
        sys.stdout = other = io.StringIO()
    assert sys.stdout is other


def test_a_mistake_of_the_user_leaves_no_traceback_in_the_log(tmp_path: Path) -> None:
    def run() -> None:
        with everything_logged() as log:
            log.open(tmp_path / "train.log")
            raise UserError("wrong")

    with pytest.raises(UserError):
        run()
    assert (tmp_path / "train.log").read_text() == ""
