"""A checkpoint from somebody else runs no code, whichever of its files contains the code."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from support import Hostile
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

from lightning_rlhf.errors import UserError
from lightning_rlhf.strategies.checkpoint_weights import read_weights
from lightning_rlhf.strategies.deepspeed.checkpoint import TAG
from lightning_rlhf.strategies.pickle_checks import check_deepspeed, check_distributed, check_file


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that exists once code has run."""
    return tmp_path / "it_has_run"


def test_what_is_hostile_here_does_run_where_nobody_checks(tmp_path: Path, mark: Path) -> None:
    torch.save(Hostile(mark), tmp_path / "file.pt")
    torch.load(tmp_path / "file.pt", weights_only=False)
    assert mark.exists()


def test_a_file(tmp_path: Path, mark: Path) -> None:
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"net.weight": torch.ones(2)}, "loops": Hostile(mark)}, file)
    with pytest.raises(UserError, match=r"checkpoint=.*last\.ckpt: not read, .*Unsupported global: GLOBAL"):
        read_weights(file)
    assert not mark.exists()


def distributed(folder: Path) -> None:
    """Writes a folder like that of `strategy=fsdp2`, with other names in its pickle."""
    state = {"state_dict": {"net.weight": torch.ones(2)}, "optimizer_0": {"lr": 0.1, "betas": (0.9, 0.999)}}
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    torch.save({"loops": {}}, folder / "meta.pt")


def test_what_torch_writes_is_read(tmp_path: Path) -> None:
    distributed(tmp_path / "last.ckpt")
    assert read_weights(tmp_path / "last.ckpt")["net.weight"].tolist() == [1, 1]


def test_the_metadata_of_a_folder(tmp_path: Path, mark: Path) -> None:
    folder = tmp_path / "last.ckpt"
    distributed(folder)
    (folder / ".metadata").write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(UserError, match=r"\.metadata: not read, .*pathlib\.Path"):
        read_weights(folder)
    assert not mark.exists()


def test_a_value_in_a_folder_that_is_no_tensor(tmp_path: Path, mark: Path) -> None:
    """torch would unpickle a weight that the metadata declares as bytes."""
    folder = tmp_path / "last.ckpt"
    distributed(folder)
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    file = folder / "hostile"
    torch.save(Hostile(mark), file)
    place = next(place for index, place in metadata.storage_data.items() if index.fqn == "state_dict.net.weight")
    place.relative_path, place.offset, place.length = file.name, 0, file.stat().st_size
    metadata.state_dict_metadata["state_dict.net.weight"] = BytesStorageMetadata()
    metadata.storage_data = {MetadataIndex("state_dict.net.weight"): place}
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(UserError, match="not read, since it is damaged or could run code"):
        check_distributed(folder)
    assert not mark.exists()


def deepspeed(folder: Path, **more: Any) -> None:
    """Writes files like those of DeepSpeed, without tensors."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum

    scalers = [LossScaler(1.0), DynamicLossScaler(2.0**16, 1000, 1.0, 2, False)]
    states = {"loss_scalers": scalers, "zero_stage": ZeroStageEnum(2), **more}
    folder.mkdir(parents=True)
    torch.save({"optimizer_state_dict": states}, folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt")


def test_what_deepspeed_writes_is_read(tmp_path: Path) -> None:
    deepspeed(tmp_path / TAG)
    check_deepspeed(tmp_path / TAG)


def test_a_file_of_deepspeed(tmp_path: Path, mark: Path) -> None:
    deepspeed(tmp_path / TAG, more=Hostile(mark))
    (tmp_path / "latest").write_text(TAG)
    with pytest.raises(UserError, match="optim_states.pt: not read"):
        read_weights(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["weights.pt", "state.ckpt"])
def test_a_folder_of_colossalai(name: str, tmp_path: Path, mark: Path) -> None:
    torch.save({"value": Hostile(mark)}, tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: not read"):
        check_file(tmp_path / name)
    assert not mark.exists()


@pytest.mark.parametrize("length", [0, 100, -1])
def test_a_file_that_was_cut_is_named(length: int, tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"net.weight": torch.ones(1000)}}, file)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(UserError, match="last.ckpt: not read, since it is damaged"):
        check_file(file)
