"""What `benchmark` does before it measures, and what a signal leaves."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_rlhf import interruption
from lightning_rlhf.assembly import command_line
from lightning_rlhf.cli import app, benchmark, doctor
from lightning_rlhf.interruption import STOPPING


@pytest.fixture(autouse=True)
def handlers_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(interruption, "_noted", [])
    before = {number: signal.getsignal(number) for number in STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("module", "name"), [(benchmark, "benchmark"), (doctor, "doctor")])
def test_several_processes_share_a_folder_and_end_with_their_launcher(
    module: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[object] = []
    monkeypatch.setattr(app, "end_with_launcher", lambda: called.append("watches"))
    monkeypatch.setattr(command_line, "agreed_time", lambda: "2026-11-30_09-00-00")
    monkeypatch.setattr(app, "run_app", lambda _: called.append(sys.argv[1:]))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "hydra.run.dir=mine"])
    module.main()  # type: ignore[attr-defined]
    # The folder of the user comes last, so it wins.
    assert called == ["watches", [f"hydra.run.dir=outputs/{name}/2026-11-30_09-00-00", "hydra.run.dir=mine"]]


def test_a_signal_before_the_work_has_begun_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmark.py"])
    monkeypatch.setattr(benchmark, "check_benchmark", lambda *_: pytest.fail("the work began"))
    made = benchmark.run_job

    def run_job(*given: object) -> None:
        signal.raise_signal(signal.SIGINT)
        made(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(benchmark, "run_job", run_job)
    with pytest.raises(SystemExit) as stopped:
        benchmark.main()
    assert stopped.value.code == 130
    assert not (tmp_path / "outputs").exists()


def test_a_failed_benchmark_is_recorded_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages: list[object] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmark.py"])
    monkeypatch.setattr(benchmark, "run_job", lambda work, names, *_: stages.append(names))
    benchmark.main()
    assert stages == [["benchmark"]]
