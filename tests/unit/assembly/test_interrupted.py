"""What the folder of a run tells after a signal."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_rlhf.assembly.interrupted import record_interruption
from lightning_rlhf.assembly.stage import kept_until_replaced


def write(folder: Path, **record: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(record))
    return folder / "result.json"


def test_a_run_that_had_no_record_yet_gets_one_and_a_card(tmp_path: Path) -> None:
    record_interruption(tmp_path, ["sft"], 3)
    record = json.loads((tmp_path / "result.json").read_text())
    assert (record["stage"], record["status"], record["seed"], record["model_dir"]) == ("sft", "interrupted", 3, None)
    assert "interrupted" in (tmp_path / "report.html").read_text()
    record_interruption(tmp_path / "pipeline", ["sft", "ppo"], 3)
    record = json.loads((tmp_path / "pipeline" / "result.json").read_text())
    assert (record["stage"], record["stages"]) == ("pipeline", {})


def test_no_record_of_a_process_that_ends_says_running(tmp_path: Path) -> None:
    finished = {"stage": "sft", "status": "finished", "metrics": {"loss": 0.5}, "model_dir": "x", "seconds": 2}
    run = write(tmp_path, stage="pipeline", status="running", stages={"sft": finished}, metrics={})
    files = [write(tmp_path / "sft", **finished), write(tmp_path / "ppo", stage="ppo", status="running", metrics={})]
    record_interruption(tmp_path, ["sft", "reward", "ppo"], 1)
    assert [json.loads(file.read_text())["status"] for file in [run, *files]] == [
        "interrupted",
        "finished",
        "interrupted",
    ]
    assert json.loads(run.read_text())["stages"] == {"sft": finished}
    assert [(tmp_path / stage / "report.html").exists() for stage in ("sft", "reward", "ppo")] == [False, False, True]


@pytest.mark.parametrize("status", ["finished", "failed"])
def test_a_run_that_was_to_go_on_keeps_the_record_of_before(status: str, tmp_path: Path) -> None:
    file = write(tmp_path, stage="sft", status=status, metrics={"loss": 0.5})
    before = file.read_bytes()
    record_interruption(tmp_path, ["sft"], 1)
    assert file.read_bytes() == before


def test_torch_is_not_needed_because_the_signal_may_have_stopped_its_import(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lightning_rlhf.assembly.interrupted import record_interruption\n"
        "record_interruption(Path(sys.argv[1]), ['sft'], 1); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(("written", "left"), [(None, "before"), ("after", "after")])
def test_the_log_of_before_stays_if_the_run_ends_before_it_has_another(
    written: str | None, left: str, tmp_path: Path
) -> None:
    def start(log: Path) -> None:
        with kept_until_replaced(log):
            log.unlink()
            if written:
                log.write_text(written)
            raise KeyboardInterrupt

    (tmp_path / "metrics.csv").write_text("before")
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "metrics.csv")
    assert (tmp_path / "metrics.csv").read_text() == left
