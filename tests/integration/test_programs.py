"""The commands as programs, started as a user starts them; other tests run them in processes that have imported
the libraries already."""

from pathlib import Path

import pytest
from support import TINY, cold_command, keep, result_of

PLAN = ["model=tiny", "stage=sft", "device_memory=1GB", "hydra.run.dir=plan"]
DOCTOR = ["model=tiny", "stage=sft", "hydra.run.dir=doctor"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a stage was trained, in `run`."""
    folder = tmp_path_factory.mktemp("programs")
    done = cold_command(folder, *keep(TINY, "sft"), "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    return folder


def test_train_leaves_a_finished_run(folder: Path) -> None:
    assert result_of(folder / "run")["status"] == "finished"


def test_export_makes_a_model_of_its_checkpoint(folder: Path) -> None:
    done = cold_command(folder, "checkpoint=run/checkpoints/last.ckpt", "output_dir=exported", name="export")
    assert done.stdout == "model in exported\n"
    assert (folder / "exported" / "model.safetensors").is_file()


@pytest.mark.parametrize(("name", "overrides"), [("plan", PLAN), ("doctor", DOCTOR)])
def test_a_command_that_only_answers_leaves_its_result(name: str, overrides: list[str], folder: Path) -> None:
    done = cold_command(folder, *overrides, name=name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert result_of(folder / name)["stage"] == name
