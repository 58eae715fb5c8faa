"""`lightning-rlhf convert`, and training directly from Meta's folder."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from meta_llama import LLAMA_1, LLAMA_2, LLAMA_3, meta_logits, write_checkpoint
from omegaconf import OmegaConf
from support import cold_command, command, environ, result_of, run_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightning_rlhf.assembly.convert import convert
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.scalar import load_scalar_model
from lightning_rlhf.models.source import ModelSource

IDS = torch.arange(3, 40)[None]


def test_the_command_writes_a_folder_that_transformers_loads(tmp_path: Path) -> None:
    (tmp_path / "7B").mkdir()
    weights = write_checkpoint(tmp_path / "7B", LLAMA_1, 2)
    done = cold_command(tmp_path, "input_dir=7B", "output_dir=hf", "max_shard_size=100KB", name="convert")
    assert (done.returncode, done.stdout, done.stderr) == (0, "model in hf\n", "")
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")(IDS).logits
    torch.testing.assert_close(logits, meta_logits(LLAMA_1, weights, IDS), atol=2e-5, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path / "hf")("Hello").input_ids[0] == 1
    record = json.loads((tmp_path / "hf" / "result.json").read_text())
    assert (record["stage"], record["status"], record["model_dir"]) == ("convert", "finished", "hf")
    assert record["metrics"] == {"parameters": sum(weight.numel() for weight in weights.values())}
    # The command leaves nothing in the working folder except the model.
    assert {path.name for path in tmp_path.iterdir()} == {"7B", "hf"}


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, LLAMA_1)
    out = tmp_path / "out"
    out.mkdir()
    convert(str(tmp_path), str(out), None, "5GB")
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    for place in (out, tmp_path / "params.json"):
        with pytest.raises(UserError, match="it is not empty; choose a folder that is new or empty"):
            convert(str(tmp_path), str(place), None, "5GB")
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_a_link_or_the_folder_that_one_is_in_gets_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path, LLAMA_1)
    for name in ("real", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("new")
    for name, place in {"link": "real", "dangling": "new"}.items():
        convert(str(tmp_path), str(tmp_path / name), None, "5GB")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / place / "result.json").is_file()
    monkeypatch.chdir(tmp_path / "here")
    convert(str(tmp_path), ".", None, "5GB")
    assert {"model.safetensors", "result.json"} < {path.name for path in (tmp_path / "here").iterdir()}


def test_a_mount_point_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path, LLAMA_1)
    (tmp_path / "disk").mkdir()
    # Mounting a disk would take root, so the check is replaced.
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "disk")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"disk: another disk is mounted there.* name a new folder in it"):
        convert(str(tmp_path), str(tmp_path / "disk"), None, "5GB")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_a_command_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "7B"
    folder.mkdir()
    # The model is large enough for the conversion to be running when it is stopped.
    write_checkpoint(folder, {**LLAMA_1, "n_layers": 100}, 2)
    code = "import sys; sys.argv = ['convert', *sys.argv[1:]]; from lightning_rlhf.cli.convert import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "input_dir=7B", "output_dir=hf", "max_shard_size=1KB"], cwd=tmp_path, env=environ()
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".hf.partial/model*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["7B"]


def test_a_dtype_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dtype=float8: expected one of float32, bfloat16, float16, or null"):
        convert(str(tmp_path), str(tmp_path / "out"), "float8", "5GB")


def test_a_source_takes_net_tokenizer_and_stop_tokens_from_metas_folder(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path, LLAMA_3, 2)
    # model=llama/7b sets these values.
    source = ModelSource(
        meta_dir=str(tmp_path), pretrained="huggyllama/llama-7b", config_tokenizer="huggyllama/llama-7b"
    )
    tokenizer = source.load_tokenizer()
    assert tokenizer("a").input_ids == [264, 97]
    # Llama 3.1 has another name for this token.
    assert tokenizer.convert_ids_to_tokens(264 + 4) == "<|reserved_special_token_2|>"
    assert source.stop_ids() == (265, 273)
    assert source.hf_config().vocab_size == 520
    # Nothing so far needed a conversion.
    assert not (tmp_path / "huggingface").exists()
    expected = meta_logits(LLAMA_3, weights, IDS)
    with torch.no_grad():
        torch.testing.assert_close(load_causal_lm(source)(IDS).logits, expected, atol=2e-5, rtol=0)
        scalar = load_scalar_model(source, "normal")
        hidden = scalar.net.base_model(IDS).last_hidden_state
    torch.testing.assert_close(hidden @ weights["output.weight"].T, expected, atol=2e-5, rtol=0)
    # After a stage, its export replaces Meta's folder.
    assert source.trained("export").pretrained == "export"


def test_metas_folder_is_converted_once_and_again_when_its_files_change(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, LLAMA_1)
    source = ModelSource(meta_dir=str(tmp_path))
    file = tmp_path / "huggingface" / "model.safetensors"
    load_causal_lm(source)
    first = file.stat().st_ino, file.stat().st_mtime_ns
    load_causal_lm(source)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == first
    weights = write_checkpoint(tmp_path, LLAMA_2)
    with torch.no_grad():
        logits = load_causal_lm(source)(IDS).logits
    torch.testing.assert_close(logits, meta_logits(LLAMA_2, weights, IDS), atol=2e-5, rtol=0)


@pytest.mark.slow
def test_processes_that_start_together_convert_once(tmp_path: Path) -> None:
    folder = tmp_path / "7B"
    folder.mkdir()
    # The conversion takes longer than the difference of the processes' start times.
    write_checkpoint(folder, {**LLAMA_1, "dim": 512, "n_layers": 12}, 2)
    code = f"""
import sys, time
from pathlib import Path
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.source import ModelSource
source = ModelSource(meta_dir={str(folder)!r})
source.load_tokenizer()
Path(sys.argv[1]).touch()
while len(list(Path().glob("ready*"))) < 2:
    time.sleep(0.001)
load_causal_lm(source)
print(Path({str(folder)!r}, "huggingface", "model.safetensors").stat().st_ino)
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, f"ready{n}"],
            cwd=tmp_path,
            env=environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    names = {path.name for path in folder.iterdir()}
    assert names - {".huggingface.lock"} == {
        "params.json", "tokenizer.model", "consolidated.00.pth", "consolidated.01.pth", "huggingface"
    }  # fmt: skip


def test_a_folder_that_cannot_be_written_to_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, LLAMA_1)
    # A folder in place of the lock makes writing fail for every user, including root.
    (tmp_path / ".huggingface.lock").mkdir()
    with pytest.raises(UserError, match=r"convert input_dir=\S+ output_dir=FOLDER.* model\.pretrained=FOLDER"):
        load_causal_lm(ModelSource(meta_dir=str(tmp_path)))


def test_a_folder_without_parameters_is_an_error_where_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.meta_dir=\S+: there is no params\.json"):
        ModelSource(meta_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"^model\.meta_dir=/no/where: no such folder"):
        ModelSource(meta_dir="/no/where")


@pytest.mark.slow
def test_a_pipeline_trains_straight_from_metas_folder(tmp_path: Path) -> None:
    (tmp_path / "7B").mkdir()
    write_checkpoint(tmp_path / "7B", LLAMA_2, 2)
    done = command(
        tmp_path,
        "experiment=none",
        "stage=pipeline",
        "model=llama/7b",
        "model.meta_dir=7B",
        "model.dtype=float32",
        "sft.trainer.max_epochs=1",
        "+sft.trainer.limit_train_batches=2",
        "reward_model.trainer.max_epochs=1",
        "+reward_model.trainer.limit_train_batches=2",
        "ppo.trainer.max_epochs=1",
        "ppo.trainer.check_val_every_n_epoch=1",
        "ppo.module.rollout_batch_size=16",
        "ppo.module.minibatch_size=8",
        "rollout.sampling.max_new_tokens=8",
    )
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path)
    result = result_of(folder)
    assert {name: stage["status"] for name, stage in result["stages"].items()} == dict.fromkeys(
        ("sft", "reward", "ppo"), "finished"
    )
    # The later stages start from the model that SFT has trained, not from Meta's weights.
    model = OmegaConf.load(folder / "ppo" / "config.yaml").model
    assert (model.meta_dir, Path(model.pretrained).parent.name) == (None, "sft")
