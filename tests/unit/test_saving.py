"""What replaces something older is complete, whenever the process that writes it is killed."""

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from support import not_json

from lightning_rlhf.distributed.checkpoint_files import WholeFiles
from lightning_rlhf.saving import appearing, read_json, write_json
from lightning_rlhf.strategies.pickle_checks import check_file


def killed_before(function: str, action: Callable[[], None]) -> bool:
    """Does something in a copy of this process, which is killed when it is about to call a function of `os`."""
    pid = os.fork()
    if pid == 0:
        setattr(os, function, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        try:
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.fixture
def other_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files on another file system than that of the test."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system, /dev/shm")
    monkeypatch.setenv("TMPDIR", str(shared))
    monkeypatch.setattr("tempfile.tempdir", None)
    return shared


def save(io: Any, file: Path, value: float) -> None:
    io.save_checkpoint({"state_dict": {"net.weight": torch.full((1000,), value)}}, str(file))


def saved(file: Path) -> float:
    check_file(file)
    return float(torch.load(file, weights_only=True)["state_dict"]["net.weight"][0])


def test_lightning_alone_destroys_the_last_checkpoint(other_disk: Path, tmp_path: Path) -> None:
    """This is the reason for `WholeFiles`: the copy is incomplete, and the older checkpoint is gone."""
    save(TorchCheckpointIO(), tmp_path / "last.ckpt", 1)
    assert killed_before("sendfile", lambda: save(TorchCheckpointIO(), tmp_path / "last.ckpt", 2))
    assert (tmp_path / "last.ckpt").stat().st_size == 0


@pytest.mark.parametrize("moment", ["sendfile", "fsync", "rename"])
def test_a_run_that_is_killed_while_it_saves_keeps_a_whole_checkpoint(
    moment: str, other_disk: Path, tmp_path: Path
) -> None:
    file = tmp_path / "last.ckpt"
    save(WholeFiles(), file, 1)
    killed = killed_before(moment, lambda: save(WholeFiles(), file, 2))
    # Nothing is copied.
    assert killed == (moment != "sendfile")
    assert saved(file) == (1 if killed else 2)
    save(WholeFiles(), file, 3)
    assert saved(file) == 3
    assert list(tmp_path.iterdir()) == [file]


def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Records the requests to the disk from now on, with the names of the files."""
    made: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def recorded_fsync(handle: int) -> None:
        made.append(("fsync", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
        fsync(handle)

    def recorded_rename(source: Any, target: Any) -> None:
        made.append(("rename", Path(source).name))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "rename", recorded_rename)
    return made


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = calls(monkeypatch)
    write_json(tmp_path / "run" / "result.json", {})
    written = ".result.json.partial"
    assert made == [("fsync", written), ("rename", written), ("fsync", "run")]


def test_so_is_a_folder_with_all_that_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    made = calls(monkeypatch)
    with appearing(tmp_path / "model") as partial:
        (partial / "inner").mkdir(parents=True)
        (partial / "inner" / "weights").write_text("1")
    before = ["weights", "inner", ".model.partial"]
    renamed = [("rename", "model"), ("rename", ".model.partial")]
    assert made == [*(("fsync", name) for name in before), *renamed, ("fsync", tmp_path.name)]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_json(file, {"status": "running"})
    with pytest.raises(TypeError):
        write_json(file, {"status": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert "running" in file.read_text()


def test_json_is_what_strict_parsers_read(tmp_path: Path) -> None:
    content = {"loss": math.inf, "parts": [1.5, -math.inf, {"kl": math.nan}], "rows": (2, None), "text": "NaN"}
    write_json(tmp_path / "result.json", content)
    read = json.loads((tmp_path / "result.json").read_text(), parse_constant=not_json)
    assert read == {"loss": None, "parts": [1.5, None, {"kl": None}], "rows": [2, None], "text": "NaN"}


@pytest.mark.parametrize("content", [None, b'{"stage": "sf', b"[1]", b"null", b"\xff\xfe"])
def test_a_record_that_cannot_be_read_is_empty(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "result.json").write_bytes(content)
    assert read_json(tmp_path / "result.json") == {}
    write_json(tmp_path / "result.json", {"stage": "sft"})
    assert read_json(tmp_path / "result.json") == {"stage": "sft"}
