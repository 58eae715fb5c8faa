"""Finds where a stopped run was: finished stages, checkpoints, and folders in which a run was resumed before."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_rlhf.assembly.resume import find_resumed, finished_result, reopen
from lightning_rlhf.errors import UserError

NAMES = ["sft", "reward", "ppo"]


def finish(folder: Path) -> dict[str, Any]:
    """Writes the files that a finished stage leaves."""
    (folder / "model").mkdir(parents=True)
    return record(folder, status="finished", model_dir=str(folder / "model"))


def record(folder: Path, **result: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result))
    return result


def save(folder: Path) -> Path:
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2"}, folder / "checkpoints" / "last.ckpt")
    return folder / "checkpoints" / "last.ckpt"


def test_stages_that_finished_in_a_first_folder_are_found_from_a_second_one(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    results = {name: finish(first / name) for name in ("sft", "reward")}
    record(second, stages=results)
    finish(second / "ppo")
    found = find_resumed(str(second), NAMES)
    assert list(found.finished) == NAMES
    assert found.checkpoints == {}
    assert [found.folder_of(name) for name in NAMES] == [first / "sft", first / "reward", second / "ppo"]


def test_a_run_that_was_stopped_before_its_first_checkpoint_goes_on_from_the_one_it_began_with(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    record(second, stages={name: finish(first / name) for name in ("sft", "reward")})
    checkpoint = save(first / "ppo")
    record(second / "ppo", status="running", resumed_from=str(checkpoint))
    assert find_resumed(str(second), NAMES).checkpoints == {"ppo": checkpoint}
    own = save(second / "ppo")
    assert find_resumed(str(second), NAMES).checkpoints == {"ppo": own}


def test_a_folder_that_was_moved_is_found_where_it_is(tmp_path: Path) -> None:
    finish(tmp_path / "old" / "sft")
    (tmp_path / "old").rename(tmp_path / "new")
    found = find_resumed(str(tmp_path / "new"), NAMES)
    assert found.finished["sft"]["model_dir"] == str(tmp_path / "new" / "sft" / "model")


def test_stages_after_one_that_is_not_finished_begin_anew(tmp_path: Path) -> None:
    finish(tmp_path / "sft")
    finish(tmp_path / "ppo")
    checkpoint = save(tmp_path / "reward")
    record(tmp_path / "reward", status="interrupted")
    found = find_resumed(str(tmp_path), NAMES)
    assert list(found.finished) == ["sft"]
    assert found.checkpoints == {"reward": checkpoint}


def test_a_single_stage_goes_on_from_its_checkpoint_even_if_it_had_finished(tmp_path: Path) -> None:
    finish(tmp_path)
    checkpoint = save(tmp_path)
    assert find_resumed(str(tmp_path), ["sft"]).checkpoints == {"sft": checkpoint}


def test_a_model_that_is_gone_is_not_finished(tmp_path: Path) -> None:
    finish(tmp_path / "sft")
    (tmp_path / "sft" / "model").rmdir()
    with pytest.raises(UserError, match="has no finished stage and no checkpoint"):
        find_resumed(str(tmp_path), NAMES)


@pytest.mark.parametrize(
    ("record_of_run", "done"),
    [
        ({"status": "finished"}, True),
        ({"status": "finished", "stages": {"sft": {"status": "finished"}}}, True),
        ({"status": "running"}, False),
        # An alarm or a time limit has ended these.
        ({"status": "finished", "stopped_by": "no_eos"}, False),
        ({"status": "finished", "stages": {"sft": {"status": "finished"}, "ppo": {"status": "stopped"}}}, False),
    ],
)
def test_a_run_has_finished_if_all_of_its_stages_came_to_their_own_end(
    record_of_run: dict[str, Any], done: bool, tmp_path: Path
) -> None:
    record(tmp_path, **record_of_run)
    assert finished_result(tmp_path) == (record_of_run if done else None)
    reopen(tmp_path)
    assert finished_result(tmp_path) is None


def test_a_run_that_goes_on_in_its_folder_may_begin_again(tmp_path: Path) -> None:
    assert find_resumed(str(tmp_path), NAMES, here=True).checkpoints == {}
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "sft").mkdir()
    with pytest.raises(UserError, match=f"has no finished stage and no checkpoint .*belongs to the run {tmp_path}"):
        find_resumed(str(tmp_path / "sft"), ["sft"])
