"""The newest weights of a run that goes on."""

import json
import os
from pathlib import Path

import pytest

from lightning_rlhf.assembly.newest_export import as_model, check_run, name_of, newest
from lightning_rlhf.errors import UserError


def touch(path: Path, when: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (when, when))
    return path


def test_the_newest_of_all_exports_and_the_checkpoint_counts(tmp_path: Path) -> None:
    for when, name in enumerate(("model/config.json", "model_best/config.json", "checkpoints/last.ckpt"), 1):
        path = touch(tmp_path / name, when * 100)
        found = newest(tmp_path)
        assert found == ((path if path.suffix == ".ckpt" else path.parent), when * 100)
    # An export that the run writes again is newer than the checkpoint.
    touch(tmp_path / "model_best" / "config.json", 400)
    assert newest(tmp_path) == (tmp_path / "model_best", 400)
    assert name_of(newest(tmp_path)) == f"{tmp_path / 'model_best'} of 1970-01-01T00:06:40+00:00"
    assert as_model(newest(tmp_path), tmp_path / "unused") == tmp_path / "model_best"
    assert not (tmp_path / "unused").exists()


def test_a_sharded_checkpoint_is_as_new_as_its_newest_file(tmp_path: Path) -> None:
    touch(tmp_path / "model" / "config.json", 200)
    for rank, when in ((0, 100), (1, 300)):
        touch(tmp_path / "checkpoints" / "last.ckpt" / f"{rank}.pt", when)
    os.utime(tmp_path / "checkpoints" / "last.ckpt", (50, 50))
    assert newest(tmp_path) == (tmp_path / "checkpoints" / "last.ckpt", 300)


def test_a_run_without_weights_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has left no model and no checkpoint yet: wait for the end of its first epoch"):
        newest(tmp_path)


def test_a_folder_that_is_no_run_of_a_language_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run=nowhere: no such folder"):
        check_run("nowhere")
    for stage in ("sft", "ppo"):
        touch(tmp_path / "pipeline" / stage / "config.yaml", 1)
    with pytest.raises(UserError, match=r"the folder of several stages: name one, such as run=.*/pipeline/ppo"):
        check_run(str(tmp_path / "pipeline"))
    (tmp_path / "result.json").write_text(json.dumps({"stage": "reward"}))
    with pytest.raises(UserError, match="stage=reward trains a reward model, which answers no prompts"):
        check_run(str(tmp_path))
    (tmp_path / "result.json").write_text(json.dumps({"stage": "ppo"}))
    assert check_run(str(tmp_path)) == tmp_path
