"""A checkpoint folder that is being replaced is never lost, whenever the run is killed."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.strategies import SingleDeviceStrategy

from lightning_rlhf.assembly.resume import find_resumed
from lightning_rlhf.distributed.checkpoint_folders import replacing


def write(folder: Path, text: str) -> None:
    with replacing(folder, SingleDeviceStrategy()) as partial:
        (partial / "weights").write_text(text)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "last.ckpt"


def killed_between_renames(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the files of a run that was killed before its second rename."""
    write(checkpoint, "first")
    rename = Path.rename

    def once(path: Path, target: Any) -> Path:
        if path.name.endswith(".partial"):
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", once)
        with pytest.raises(KeyboardInterrupt):
            write(checkpoint, "second")
    assert not checkpoint.exists()


@pytest.mark.parametrize("given", ["run folder", "checkpoint"])
def test_a_run_that_was_killed_between_two_renames_goes_on(
    given: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_between_renames(checkpoint, monkeypatch)
    resume = checkpoint.parents[1] if given == "run folder" else checkpoint
    for _ in range(2):
        # Every process of a run looks by itself.
        assert find_resumed(str(resume), ["ppo"]).checkpoints == {"ppo": checkpoint}
        assert (checkpoint / "weights").read_text() == "first"


def test_the_next_checkpoint_takes_the_place_of_all_that_was_left(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_between_renames(checkpoint, monkeypatch)
    write(checkpoint, "third")
    assert (checkpoint / "weights").read_text() == "third"
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_an_older_checkpoint_never_takes_the_place_of_a_newer_one(checkpoint: Path) -> None:
    write(checkpoint, "second")
    left = checkpoint.with_name(".last.ckpt.old")
    left.mkdir()
    (left / "weights").write_text("first")
    find_resumed(str(checkpoint), ["ppo"])
    assert (checkpoint / "weights").read_text() == "second"


def test_no_rank_reads_the_folder_while_another_one_still_writes(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    class Ranks(SingleDeviceStrategy):
        def barrier(self, *_: Any, **__: Any) -> None:
            events.append("barrier")

    monkeypatch.setattr("lightning_rlhf.distributed.checkpoint_folders.flush", lambda _: events.append("flush"))
    with replacing(checkpoint, Ranks()):
        events.append("written")
    # A file that was renamed when it was complete no longer exists for a rank that has listed it under its first name.
    # The last flush is that of the checksums.
    assert events == ["barrier", "written", "barrier", "flush", "barrier", "flush", "barrier"]
