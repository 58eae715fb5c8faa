"""`lightning-rlhf export` makes a plain folder of a checkpoint, or explains why it cannot."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from support import TINY, Hostile, cold_command, command, keep, result_of, run_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightning_rlhf.assembly.export import export
from lightning_rlhf.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished SFT run."""
    folder = tmp_path_factory.mktemp("run")
    done = command(folder, *keep(TINY, "sft"), "experiment=none")
    assert done.returncode == 0, done.stderr
    return run_folder(folder)


def test_the_command_writes_the_folder_that_the_run_wrote(run: Path, tmp_path: Path) -> None:
    checkpoint = run / "checkpoints" / "last.ckpt"
    done = cold_command(tmp_path, f"checkpoint={checkpoint}", name="export")
    assert (done.returncode, done.stdout) == (0, f"model in {run / 'export'}\n"), done.stderr
    own, other = (load_file(run / name / "model.safetensors") for name in ("export", "model"))
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    AutoModelForCausalLM.from_pretrained(run / "export")
    assert AutoTokenizer.from_pretrained(run / "export").chat_template
    # What it names of the training is what the run named, in the manifest, the card and the generation settings.
    told, said = (json.loads((run / name / "lightning_rlhf.json").read_text()) for name in ("export", "model"))
    assert told.pop("checkpoint") == "last.ckpt"
    assert told == said
    assert "those of the checkpoint `last.ckpt`" in (run / "export" / "README.md").read_text()
    names = ("export/generation_config.json", "model/generation_config.json")
    assert len({(run / name).read_text() for name in names}) == 1
    assert json.loads((run / "export" / "result.json").read_text())["model_dir"] == str(run / "export")
    # The command leaves nothing in the working folder.
    assert list(tmp_path.iterdir()) == []


def test_weights_are_written_in_the_dtype_that_is_asked_for(run: Path, tmp_path: Path) -> None:
    folder = export(str(run / "checkpoints" / "last.ckpt"), str(tmp_path / "half"), "bfloat16")
    assert {weight.dtype for weight in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}


def test_what_is_no_checkpoint_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"checkpoint=nowhere\.ckpt: no such file or folder"):
        export("nowhere.ckpt", None, None)
    folder = run / "checkpoints" / "empty.ckpt"
    folder.mkdir()
    with pytest.raises(UserError, match="not a checkpoint that a strategy of this package has written"):
        export(str(folder), str(tmp_path / "model"), None)
    assert not (tmp_path / "model").exists()


def test_a_checkpoint_away_from_its_run_is_an_error_that_says_what_is_missing(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "checkpoints" / "last.ckpt"
    moved.parent.mkdir()
    moved.write_bytes((run / "checkpoints" / "last.ckpt").read_bytes())
    with pytest.raises(UserError, match=r"there is no config\.yaml in"):
        export(str(moved), None, None)


def test_a_dtype_that_does_not_exist_is_an_error(run: Path) -> None:
    with pytest.raises(UserError, match="dtype=float8: expected one of float32, bfloat16, float16, or null"):
        export(str(run / "checkpoints" / "last.ckpt"), None, "float8")


@pytest.fixture
def found(run: Path, tmp_path: Path) -> Path:
    """A run folder that comes from somebody else."""
    return shutil.copytree(run, tmp_path / "found", ignore=shutil.ignore_patterns("empty.ckpt", "export"))


def test_settings_that_were_found_run_nothing(found: Path, tmp_path: Path) -> None:
    mark, file = tmp_path / "it_has_run", found / "hostile.ckpt"
    torch.save(Hostile(mark), file)
    config = OmegaConf.load(found / "config.yaml")
    OmegaConf.update(
        config, "model.adapter", {"_target_": "torch.load", "f": str(file), "weights_only": False}, force_add=True
    )
    OmegaConf.save(config, found / "config.yaml")
    done = command(tmp_path, f"checkpoint={found / 'checkpoints' / 'last.ckpt'}", name="export")
    assert (done.returncode, done.stdout) == (2, "")
    expected = "model.adapter._target_=torch.load: expected lightning_rlhf.models.adapters.lora.Lora"
    assert done.stderr == f"error: {found / 'config.yaml'}: {expected}\n"
    assert not mark.exists()
    assert not (found / "export").exists()


def test_a_checkpoint_that_was_found_runs_nothing(found: Path, tmp_path: Path) -> None:
    mark, file = tmp_path / "it_has_run", found / "checkpoints" / "last.ckpt"
    torch.save(torch.load(file) | {"loops": Hostile(mark)}, file)
    # A run that has finished would not be read.
    (found / "result.json").write_text(json.dumps(result_of(found) | {"status": "interrupted"}))
    resumed = command(tmp_path, *keep(TINY, "sft"), "experiment=none", f"resume={found}")
    exported = command(tmp_path, f"checkpoint={file}", name="export")
    for done in (resumed, exported):
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: checkpoint={file}: not read, since it is damaged or could run code")
        assert done.stderr.count("\n") == 1
    assert not mark.exists()


def test_a_record_of_another_kind_is_named(found: Path) -> None:
    record = found / "result.json"
    record.write_text('{"stage": "torch.hub"}')
    with pytest.raises(UserError, match="result.json: stage=torch.hub: expected one of sft, reward, ppo, dpo"):
        export(str(found / "checkpoints" / "last.ckpt"), None, None)
