"""Files that a run left, and that were damaged since, are one message and exit code 2 for every command."""

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import TINY, command, keep, once, result_of

SFT = keep(TINY, "sft")
LAST = "run/checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of two stages of three epochs."""

    def train(folder: Path) -> None:
        folder.mkdir()
        for name, stage in (("run", SFT), ("other", keep(TINY, "reward"))):
            more = ["sft.trainer.max_epochs=3"] if name == "run" else []
            done = command(folder, *stage, *more, "resume=auto", f"hydra.run.dir={name}")
            assert done.returncode == 0, done.stderr

    return once(tmp_path_factory, "damaged", train)


@pytest.fixture
def here(finished: Path, tmp_path: Path) -> Path:
    """A copy of them, to be damaged."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    # Only the last checkpoint is left, unless a test is about the one before it.
    (tmp_path / "run" / "checkpoints" / "previous.ckpt").rename(tmp_path / "previous")
    return tmp_path


def rows(run: Path) -> list[tuple[str, str]]:
    """Which rows `metrics.csv` has. Their numbers depend on the length that the run was first planned to have."""
    with (run / "metrics.csv").open() as file:
        return [(row["epoch"], row["step"]) for row in csv.DictReader(file)]


def refused(done: subprocess.CompletedProcess[str], *told: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1
    for text in told:
        assert text in done.stderr


def go_on(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return command(folder, "resume=run", "sft.trainer.max_epochs=4", *more)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 100] = bytes(byte ^ 255 for byte in content[middle : middle + 100])
    file.write_bytes(content)


def of_another_size(file: Path) -> None:
    content = torch.load(file, weights_only=True)
    content["state_dict"] = {name: weight[..., :1].clone() for name, weight in content["state_dict"].items()}
    torch.save(content, file)


CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (flip, "the checksum of its record"),
    "truncated": (lambda file: file.write_bytes(file.read_bytes()[:20_000]), "damaged"),
    "empty": (lambda file: file.write_bytes(b""), "damaged"),
    "of another stage": (lambda file: shutil.copy(file.parents[2] / "other/checkpoints/last.ckpt", file), "stage=sft"),
    "of another size": (of_another_size, "size mismatch"),
    "another file of torch": (lambda file: torch.save([1], file), "not the checkpoint of a run"),
}


@pytest.mark.parametrize("damage", CHECKPOINTS)
def test_a_damaged_checkpoint_is_neither_resumed_nor_exported(damage: str, here: Path) -> None:
    change, told = CHECKPOINTS[damage]
    change(here / LAST)
    refused(go_on(here), LAST, told)
    refused(command(here, f"checkpoint={LAST}", "output_dir=exported", name="export"))
    assert not (here / "exported").exists()


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(here: Path) -> None:
    flip(here / LAST)
    (here / "previous").rename(here / "run" / "checkpoints" / "previous.ckpt")
    done = command(here, *SFT, "sft.trainer.max_epochs=4", "resume=auto", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the checkpoint before it is taken: run/checkpoints/previous.ckpt") == 1
    assert (result_of(here / "run")["status"], result_of(here / "run")["resumed_from"]) == (
        "finished",
        "run/checkpoints/previous.ckpt",
    )
    whole = command(here, *SFT, "sft.trainer.max_epochs=4", "hydra.run.dir=whole")
    assert whole.returncode == 0, whole.stderr
    assert rows(here / "run") == rows(here / "whole")


RECORDS = {
    "result.json": [b'{"status": "fin', b"[]", b"[" * 100_000, b'{"status": 3}', b'{"stages": {"sft": 3}}'],
    ".hydra/overrides.yaml": [b"- a=1\n- b", b"3", b"\xff"],
    ".hydra/config.yaml": [b"", b"model: [", b"seed: 1"],
    "config.yaml": [b"", b"[" * 100_000],
}


@pytest.mark.parametrize(
    ("name", "content"),
    [pytest.param(name, text, id=f"{name} {text[:9]!r}") for name, texts in RECORDS.items() for text in texts],
)
def test_a_damaged_record_of_a_run_is_named(name: str, content: bytes, here: Path) -> None:
    (here / "run" / name).write_bytes(content)
    refused(go_on(here), f"run/{name}")


@pytest.mark.parametrize("resume", ["true", "3", "[a]"])
def test_a_resume_that_is_no_path_is_refused_and_leaves_nothing(resume: str, tmp_path: Path) -> None:
    refused(command(tmp_path, *SFT, f"resume={resume}"), "expected the folder of a run")
    assert not list(tmp_path.iterdir())


USES: dict[str, tuple[str, ...]] = {
    "train": ("stage=sft", "experiment=none", "model=gpt2/small", "model.pretrained=run/model"),
    "chat": ("model_dir=run/model",),
    "evaluate": ("a=run/model", "b=run/model", "prompts=prompts.jsonl"),
    "serve-reward": ("model_dir=run/model",),
}


@pytest.mark.parametrize("name", USES)
def test_flipped_bytes_of_weights_are_used_by_no_command(name: str, here: Path) -> None:
    if name == "serve-reward":
        shutil.rmtree(here / "run")
        (here / "other").rename(here / "run")
    (here / "prompts.jsonl").write_text('{"prompt": "Why?"}\n')
    flip(here / "run" / "model" / "model.safetensors")
    refused(command(here, *USES[name], name=name), "model.safetensors is damaged")


def config(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda old: json.dumps(json.loads(old) | changes).encode()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda old: b"[]", "config.json is no JSON object"),
        (lambda old: b"[" * 100_000, "config.json is not JSON"),
        (config(vocab_size=10**13), "the memory is not enough (1,280,000,000,000,000 bytes at once)"),
    ],
)
def test_a_damaged_description_of_a_model_is_one_message(
    change: Callable[[bytes], bytes], told: str, here: Path
) -> None:
    file = here / "run" / "model" / "config.json"
    file.write_bytes(change(file.read_bytes()))
    refused(command(here, *USES["chat"], name="chat"), told)


def test_a_mistake_in_a_file_of_the_users_configuration_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "own.yaml").write_text("a: [1\nb: {")
    refused(command(tmp_path, "--config-dir", "mine", "stage=sft", "model=own"), "not YAML", "own.yaml", "line 2")
