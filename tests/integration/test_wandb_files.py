"""What W&B is given beside the metrics: the run card as an artifact, and a sweep that it coordinates."""

import hashlib
import shlex
from pathlib import Path

import pytest
import yaml
from support import TINY, command, keep, run_folder
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

SWEEP = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "wandb_sweep.yaml").read_text())


def test_wandb_keeps_the_run_card_and_what_it_shows(tmp_path: Path) -> None:
    done = command(tmp_path, *keep(TINY, "sft"), "logger=wandb", WANDB_MODE="offline", WANDB_DATA_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path)
    (recorded,) = folder.glob("wandb/offline-run-*/*.wandb")
    run_id = recorded.stem.removeprefix("run-")
    content = recorded.read_bytes()
    # W&B writes uncompressed protocol buffers, so names appear in the file literally.
    assert f"run-card-{run_id}".encode() in content
    # It stages a copy of each file of the artifact, from which a later upload takes it.
    copies = [path for path in tmp_path.rglob("*") if "staging" in path.parts and path.is_file()]
    staged = {hashlib.sha256(path.read_bytes()).hexdigest() for path in copies}
    for name in ("report.html", "samples.jsonl", "metrics.csv", "result.json", "config.yaml"):
        assert name.encode() in content, name
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() in staged, name


def agents_command(values: dict[str, object]) -> list[str]:
    """The command that an agent of W&B makes of the file, as the agent's own code makes it."""
    parts = create_sweep_command(list(SWEEP["command"]))
    filled = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    words: list[str] = []
    for part in parts:
        if part.startswith("${") and part[2:-1] in filled:
            words += filled[part[2:-1]]
        elif part != "${env}":
            words.append(part)
    return words


def test_an_agent_of_wandb_starts_runs_that_the_command_accepts(tmp_path: Path) -> None:
    values: dict[str, object] = {name: spec["min"] for name, spec in SWEEP["parameters"].items()}
    words = agents_command(values)
    assert words[:3] == ["lightning-rlhf", "train", "stage=ppo"]
    assert {"ppo.module.lr=5e-05", "ppo.module.kl_coef=0.01"} <= set(words)
    # The models of the user are left out here, and the run is tiny.
    own = [word for word in words[2:] if "/RUN/" not in word and word != "logger=wandb"]
    tiny = [word for word in keep(TINY, "ppo") if word != "stage=ppo"]
    done = command(tmp_path, *own, *tiny, "reward=gold", "dry_run=true")
    assert done.returncode == 0, shlex.join(own) + done.stderr


def test_the_metric_of_the_sweep_is_one_that_runs_log(tmp_path: Path) -> None:
    tiny = keep(TINY, "ppo")
    done = command(tmp_path, *tiny, "reward=gold")
    assert done.returncode == 0, done.stderr
    names = (run_folder(tmp_path) / "metrics.csv").read_text().splitlines()[0].split(",")
    assert SWEEP["metric"]["name"] in names
    assert SWEEP["metric"]["goal"] == "maximize"


@pytest.mark.parametrize("spec", SWEEP["parameters"].values(), ids=SWEEP["parameters"])
def test_the_settings_of_the_sweep_have_a_range(spec: dict[str, float]) -> None:
    assert 0 < spec["min"] < spec["max"]
