"""Helpers of several test files: recorders, a quiet trainer, and the command line as a user runs it."""

import copy
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import warm
from filelock import FileLock
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from torch import Tensor, nn

from lightning_rlhf.experience import Rollout
from lightning_rlhf.hooks import RLHFCallback
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.engines.padded import PaddedEngine
from lightning_rlhf.stages import STAGES


class Recorder(pl.Callback):
    """Keeps the loss of every training step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))


class Watch(RLHFCallback):
    """Keeps every rollout."""

    def __init__(self) -> None:
        self.rollouts: list[Rollout] = []

    def on_rollout_end(self, trainer: pl.Trainer, module: Any, rollout: Rollout) -> None:
        self.rollouts.append(rollout)


class OwnWeights(PaddedEngine):
    """An engine that only has the weights that it was given, like an engine in another process."""

    shares_weights = False

    def __init__(self, net: nn.Module, device: torch.device, **settings: Any) -> None:
        own = copy.deepcopy(net).eval()
        for weight in own.parameters():
            weight.data = torch.zeros_like(weight)
        super().__init__(own, device, **settings)
        self.weights_version: Any = None

    @torch.no_grad()
    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        own = self.net.state_dict()
        for name, weight in weights:
            own.pop(name).copy_(weight)
        assert not own, "some weights were not given"
        super().update_weights(weights, version)


def tiny_source() -> ModelSource:
    """Returns the source of the smallest model, which `model=tiny seed=1` configures."""
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return instantiate(compose("train", ["model=tiny", "seed=1"]).model)


def trainer(folder: Path, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    """Returns a plain trainer without output."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "default_root_dir": folder,
    }
    return pl.Trainer(callbacks=list(callbacks), **(defaults | settings))


TINY = [
    "model=tiny",
    "sft.trainer.max_epochs=1",
    "reward_model.trainer.max_epochs=1",
    "+sft.trainer.limit_train_batches=2",
    "+reward_model.trainer.limit_train_batches=2",
    "ppo.trainer.max_epochs=2",
    "ppo.trainer.check_val_every_n_epoch=1",
    "ppo.module.rollout_batch_size=16",
    "ppo.module.minibatch_size=8",
    "rollout.sampling.max_new_tokens=8",
]
TINY_DPO = ["dpo.trainer.max_epochs=1", "+dpo.trainer.limit_train_batches=2"]


def keep(overrides: list[str], stage: str) -> list[str]:
    """Keeps the overrides that a run of one stage, or of `pipeline_dpo`, accepts, and adds its `stage=`."""
    stages = ("sft", "dpo") if stage == "pipeline_dpo" else (stage,)
    others = tuple(f"{record.block}." for name, record in STAGES.items() if name not in stages)
    return [o for o in overrides if not o.lstrip("+").startswith(others)] + [f"stage={stage}"]


def command(folder: Path, *overrides: str, name: str = "train", **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of `lightning-rlhf` in a folder, in a process that has imported the libraries already."""
    process = warm.start(["-m", "lightning_rlhf.cli", name, *overrides], cwd=folder, env=environ(**environment))
    try:
        stdout, stderr = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode is not None
    return subprocess.CompletedProcess([name, *overrides], process.returncode, stdout, stderr)


def cold_command(
    folder: Path, *overrides: str, name: str = "train", timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command of `lightning-rlhf` in a folder as a user does, in a process that imports everything itself."""
    with started(folder, name, *overrides, **environment) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        finally:
            process.kill()
    return subprocess.CompletedProcess([name, *overrides], process.returncode, stdout, stderr)


def started(folder: Path, name: str, *overrides: str, **environment: str) -> subprocess.Popen[str]:
    """Starts a command of `lightning-rlhf` as a user does, in a process that imports everything itself."""
    return subprocess.Popen(
        [sys.executable, "-m", "lightning_rlhf.cli", name, *overrides],
        cwd=folder,
        env=environ(**environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts a process in the background would let it ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def address_of(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Waits until a server that was started says its address; returns that, and what the server has said so far."""
    assert process.stdout
    said = ""
    for line in process.stdout:
        said += line
        if found := re.search(r" at (http://[\d.]+:\d+\S*);", line):
            return found[1], said
    return pytest.fail(said + process.communicate()[1])


@contextmanager
def serving(folder: Path, name: str, *overrides: str) -> Iterator[str]:
    """Runs a command that serves, gives its address, and checks how it ends when Ctrl-C stops it."""
    with started(folder, name, *overrides) as process:
        try:
            yield address_of(process)[0]
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "stopped\n", "")


def environ(**more: str) -> dict[str, str]:
    """Returns the environment of a process under test."""
    # A strategy that ran in the process of the tests leaves these variables, and its port is still in use.
    left = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    own = {name: value for name, value in os.environ.items() if name not in left}
    return {**own, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "160", **more}


def free_port() -> int:
    """Returns a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_folder(folder: Path) -> Path:
    """Returns the folder of the last run."""
    return max(folder.glob("outputs/*/*"), key=lambda path: path.stat().st_mtime)


def result_of(folder: Path) -> dict[str, Any]:
    """Reads the `result.json` of a run as a strict parser does."""
    return json.loads((folder / "result.json").read_text(), parse_constant=not_json)


def not_json(constant: str) -> None:
    """Refuses `NaN`, `Infinity` and `-Infinity`, as a strict parser does."""
    raise AssertionError(f"{constant} is not JSON")


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Returns a folder that one of the test processes fills for all of them.

    Args:
        factory: The factory of the session.
        name: Name of the folder.
        make: Fills the folder.
    """
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = shared / name, shared / f"{name}.done"
    with FileLock(shared / f"{name}.lock"):
        if not done.exists():
            make(folder)
            done.touch()
    return folder


class Hostile:
    """An object that creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)
