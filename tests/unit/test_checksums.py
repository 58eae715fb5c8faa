"""Damaged files of checkpoints and models are found before anything uses them."""

import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from safetensors.torch import load_file, save_file

from lightning_rlhf.assembly.resume import find_resumed
from lightning_rlhf.checksums import SUMS, check_checksums, checksums, write_checksums
from lightning_rlhf.distributed.checkpoint_folders import replacing
from lightning_rlhf.errors import UserError
from lightning_rlhf.saving import keeping
from lightning_rlhf.strategies.checkpoint_weights import read_weights


def flip(file: Path, number: int = 100) -> None:
    """Changes bytes in the second half of a file, where its tensors are."""
    content = bytearray(file.read_bytes())
    for place in random.Random(1).sample(range(len(content) // 2, len(content) - 2000), number):
        content[place] ^= 255
    file.write_bytes(content)


def summed(folder: Path) -> Path:
    folder.mkdir(parents=True)
    save_file({"weight": torch.randn(10_000)}, folder / "model.safetensors")
    write_checksums(folder, checksums(folder, folder.glob("*.safetensors")))
    return folder


def test_the_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    folder = summed(tmp_path / "model")
    check_checksums(folder, "model")
    if shutil.which("sha256sum") is None:
        pytest.skip("needs sha256sum")
    subprocess.run(["sha256sum", "--strict", "--check", SUMS], cwd=folder, check=True)


def test_flipped_bytes_of_weights_that_load_without_an_error_are_found(tmp_path: Path) -> None:
    folder = summed(tmp_path / "model")
    before = load_file(folder / "model.safetensors")["weight"].clone()
    flip(folder / "model.safetensors")
    assert not torch.equal(load_file(folder / "model.safetensors")["weight"], before)
    with pytest.raises(UserError, match=r"model=here: model.safetensors is damaged: .* remove SHA256SUMS"):
        check_checksums(folder, "model=here")


@pytest.mark.parametrize("sums", ["garbage", "0" * 64 + "  ../../other\n", "0" * 64 + "  gone\n", "\x00\udcff\n"])
def test_damaged_checksums_are_one_message(sums: str, tmp_path: Path) -> None:
    folder = summed(tmp_path / "model")
    (folder / SUMS).write_text(sums, "utf-8", "surrogateescape")
    with pytest.raises(UserError, match=f"model: .*{SUMS}"):
        check_checksums(folder, "model")


def test_a_folder_without_checksums_passes(tmp_path: Path) -> None:
    check_checksums(tmp_path, "model")


def file_of(checkpoint: Path, value: float) -> None:
    checkpoint.parent.mkdir(exist_ok=True)
    with keeping(checkpoint, checkpoint.with_name("previous.ckpt")):
        content = {"state_dict": {"weight": torch.full((10_000,), value)}, "pytorch-lightning_version": "2"}
        torch.save(content, checkpoint.with_name("new"))
        checkpoint.with_name("new").replace(checkpoint)


def folder_of(checkpoint: Path, value: float) -> None:
    with (
        keeping(checkpoint, checkpoint.with_name("previous.ckpt")),
        replacing(checkpoint, SingleDeviceStrategy()) as partial,
    ):
        save_file({"weight": torch.full((10_000,), value)}, partial / "weights")


def weight_of(checkpoint: Path) -> float:
    if checkpoint.is_dir():
        return float(load_file(checkpoint / "weights")["weight"].unique())
    return float(torch.load(checkpoint)["state_dict"]["weight"].unique())


@pytest.fixture
def last(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize("save", [file_of, folder_of])
def test_the_checkpoint_before_the_last_is_kept_and_no_other(save: Any, last: Path) -> None:
    for value in (1.0, 2.0, 3.0):
        save(last, value)
    assert sorted(path.name for path in last.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert weight_of(last) == 3.0
    assert weight_of(last.with_name("previous.ckpt")) == 2.0


@pytest.mark.parametrize("save", [file_of, folder_of])
def test_an_error_while_a_checkpoint_is_written_leaves_both_as_they_were(save: Any, last: Path) -> None:
    for value in (1.0, 2.0):
        save(last, value)
    with pytest.raises(OSError, match="full"), keeping(last, last.with_name("previous.ckpt")):
        raise OSError("full")
    assert (weight_of(last), weight_of(last.with_name("previous.ckpt"))) == (2.0, 1.0)
    assert sorted(path.name for path in last.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "garbage"])
@pytest.mark.parametrize("save", [file_of, folder_of])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_taken(
    damage: str, save: Any, last: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for value in (1.0, 2.0):
        save(last, value)
    previous = last.with_name("previous.ckpt")
    for place in (last, previous):
        file = place / "weights" if place.is_dir() else place
        # Not in place: both names may be those of one file.
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(
            {"truncated": content[: len(content) // 2], "empty": b"", "garbage": b"garbage" * 999}.get(damage, content)
        )
        if damage == "flipped":
            flip(file)
        if place == last:
            found = find_resumed(str(last.parents[1]), ["sft"])
            assert found.checkpoints == {"sft": previous}
            assert str(last) in caplog.text
            assert f"the checkpoint before it is taken: {previous}" in caplog.text
    with pytest.raises(UserError) as error:
        find_resumed(str(last.parents[1]), ["sft"])
    assert str(last) in str(error.value)
    assert str(previous) in str(error.value)
    with pytest.raises(UserError, match="damaged"):
        read_weights(last)
