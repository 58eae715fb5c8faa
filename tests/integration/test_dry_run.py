"""`train dry_run=true`: everything before the first step happens, and nothing is left of it."""

from pathlib import Path

import pytest
from support import TINY, command, keep, run_folder


def files(folder: Path) -> set[Path]:
    """Everything below a folder."""
    return set(folder.rglob("*"))


def test_a_dry_run_of_a_pipeline_says_what_each_stage_would_do_and_leaves_nothing(tmp_path: Path) -> None:
    done = command(tmp_path, *TINY, "dry_run=true")
    assert done.returncode == 0, done.stderr
    # The demo has 3,000 demonstrations, of whose prompts 5% are held out.
    for line in ("sft: 1 epochs, 2,853 rows", "reward: 1 epochs, 2,400 rows", "ppo: 2 iterations, 1,000 prompts"):
        assert line in done.stdout + done.stderr
    assert done.stdout.count("planned peak: ") == 3
    assert "all that comes before the first step has worked" in done.stderr + done.stdout
    assert not files(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sft.module.lr=fast"], "sft.module.lr=fast: expected a number"),
        (["ppo.module.lr=1e-3"], "ppo.module.lr is set, but stage=ppo does not run here"),
        (["data=files", "data.path=absent.jsonl"], "absent.jsonl"),
        # Only data and model together show it.
        (["model.config.max_position_embeddings=16"], "stopped before the first update"),
    ],
)
def test_a_dry_run_finds_what_would_stop_a_run_and_leaves_nothing(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    done = command(tmp_path, "stage=sft", "model=tiny", *overrides, "dry_run=true")
    assert done.returncode == 2
    assert message in done.stderr
    assert not files(tmp_path)


def test_a_dry_run_of_a_resumed_run_leaves_that_run_as_it_is(tmp_path: Path) -> None:
    short = keep(TINY, "sft")
    assert command(tmp_path, *short).returncode == 0
    folder = run_folder(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in files(tmp_path)}
    more = ["sft.trainer.max_epochs=2", f"resume={folder}", f"hydra.run.dir={folder}"]
    done = command(tmp_path, *short, *more, "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in files(tmp_path)} == before


@pytest.mark.slow
def test_processes_that_share_a_dry_run_share_its_folder(tmp_path: Path) -> None:
    done = command(tmp_path, *keep(TINY, "sft"), "strategy=fsdp2", "trainer.devices=2", "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert not files(tmp_path)


def test_a_dry_run_of_a_sweep_is_refused(tmp_path: Path) -> None:
    done = command(tmp_path, "-m", "seed=1,2", "dry_run=true")
    assert done.returncode == 2
    assert "dry_run=true: only one run at a time can be tried" in done.stderr
    assert not files(tmp_path)


def test_a_dry_run_never_removes_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model").touch()
    done = command(tmp_path, "model=tiny", "hydra.run.dir=mine", "++dry_run=true")
    assert done.returncode == 2
    assert "dry_run: give it on the command line, as dry_run=true" in done.stderr
    assert (tmp_path / "mine" / "model").exists()
