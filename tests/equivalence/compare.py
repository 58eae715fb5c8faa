"""Starts `worker.py`, and measures how far two runs differ."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import warm
from safetensors.torch import load_file
from support import environ, free_port
from torch import Tensor
from worker import EPOCHS, STEPS_PER_EPOCH

WORKER = Path(__file__).with_name("worker.py")


def launch(folder: Path, strategy: str, *arguments: str, worker: str = "worker.py") -> None:
    """Runs the worker in all its processes at once, and checks that a run with `die=yes` was killed by SIGKILL.

    Lightning itself would start the other processes from the first, after its imports, which takes twice the time.
    """
    given = dict(argument.split("=", 1) for argument in arguments)
    devices = int(given.get("trainer.devices", 1))
    shared = {"PYTHONPATH": str(WORKER.parent), "MASTER_PORT": str(free_port())}
    ranks = [{**shared, "LOCAL_RANK": str(rank)} for rank in range(devices)] if devices > 1 else [shared]
    script = str(WORKER.with_name(worker))
    finish([started([script, str(folder), strategy, *arguments], **rank) for rank in ranks], -9 * ("die" in given))


def started(command: list[str], **environment: str) -> warm.Process:
    """Starts a Python process whose output is kept."""
    return warm.start(command, env=environ(**environment), merged=True)


def finish(processes: list[warm.Process], expected: int = 0) -> None:
    """Waits for processes to end, and checks their exit code."""
    try:
        with ThreadPoolExecutor() as pool:
            outputs = list(pool.map(lambda process: process.communicate(timeout=420)[0], processes))
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == expected, f"exit code {process.returncode}\n{output[-8000:]}"


def trajectory(folder: Path, stage: str) -> dict[str, Any]:
    """Reads the numbers that a run of the worker has recorded."""
    return json.loads((folder / stage / "trajectory.json").read_text())


def differences(run: Path, reference: Path, stage: str) -> dict[str, float]:
    """Returns the largest difference of each quantity, relative to the largest value in the reference.

    A resumed run is compared with the last steps of the reference. A KL begins at 0 and stays so near to it that a
    relative difference would show rounding alone, so it is compared in nats.
    """
    own, other = trajectory(run, stage), trajectory(reference, stage)
    found = {}
    for name, number in _recorded(own, stage).items():
        here, expected = own[name][-number:], other[name][-number:]
        scale = 1.0 if name == "kl" else max(map(abs, expected))
        found[name] = max(abs(a - b) for a, b in zip(here, expected, strict=True)) / scale
    found["val"] = max(abs(own["val"][k] - v) / max(1.0, abs(v)) for k, v in other["val"].items())
    return found


def _recorded(own: dict[str, Any], stage: str) -> dict[str, int]:
    """Counts the numbers of each quantity, and checks that none is missing, or nothing would be compared."""
    iterations = len(own["loss"]) // STEPS_PER_EPOCH
    assert iterations >= 1
    rollouts = iterations if stage == "ppo" else 0
    number = {"loss": iterations * STEPS_PER_EPOCH, "score": rollouts, "kl": rollouts}
    number["logged_loss"] = rollouts or number["loss"]
    assert {name: len(own[name]) for name in number} == number
    for name in ("grad_norm", *(["grad_norm_actor", "grad_norm_critic"] if stage == "ppo" else [])):
        # A resumed run still has the norms of the earlier steps.
        number[name] = number["loss"]
        assert len(own[name]) == EPOCHS * STEPS_PER_EPOCH
    return {name: count for name, count in number.items() if count}


def weight_difference(folder: Path, reference: Path) -> float:
    """Returns the largest difference of two exports, which must contain the same tensors."""
    own, other = _weights(folder), _weights(reference)
    assert own.keys() == other.keys()
    return max(float((own[name].float() - other[name].float()).abs().max()) for name in own)


def _weights(folder: Path) -> dict[str, Tensor]:
    return dict(pair for file in _files(folder) for pair in load_file(file).items())


def _files(folder: Path) -> Iterator[Path]:
    return folder.glob("*.safetensors")
