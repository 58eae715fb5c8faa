"""The first run on a GPU: does this package compute there what it computes on a CPU, how fast, and in what memory?

    python benchmarks/gpu_first_run.py FOLDER [--device cuda|cpu] [--model OPTION] [--strategy NAME …] [--minutes 10]

It writes FOLDER/gpu_first_run.json and FOLDER/gpu_first_run.html. Each part reports its own failure, and the next parts
run nevertheless. On a CPU all parts run as well, so that the program itself is tested.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1"}

import torch
from gpu_parts import GENERATED, engines, equality, facts, rollouts
from hydra import compose, initialize_config_module
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lightning_rlhf.assembly.config_files import options
from lightning_rlhf.assembly.library_messages import silence_libraries
from lightning_rlhf.assembly.plan_job import job_of
from lightning_rlhf.planner.memory import peak
from lightning_rlhf.planner.phases import moments
from lightning_rlhf.saving import write_json

# The work of each strategy: an iteration takes a second or two on a GPU, and all of its phases happen.
SMALL = ["rollout_batch_size=16", "minibatch_size=8", "ppo_epochs=1", "prompt_length=32", "response_length=32"]
SMALL += ["warmup=1", "repeats=2"]
_LONGEST = 150.0
"""Seconds that a strategy may take."""


def attempted(work: Callable[[], Any]) -> dict[str, Any]:
    """Runs a part, and returns what it found, or how it failed."""
    start = time.perf_counter()
    try:
        found = {"found": work()}
    except Exception as error:
        found = {"failed": f"{type(error).__name__}: {error}"}
    return {**found, "seconds": round(time.perf_counter() - start, 1)}


def strategy_run(name: str, folder: Path, model: str, device: str, seconds: float) -> dict[str, Any]:
    """Benchmarks a strategy on one device, and compares its peak memory with the plan.

    Args:
        name: Option of `strategy`.
        folder: Folder for its files.
        model: Option of `model`.
        device: `cuda` or `cpu`.
        seconds: Time limit.

    Raises:
        RuntimeError: If the run fails; the message is the last that it wrote.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainer = "gpu" if device == "cuda" else "cpu"
    given = [f"model={model}", f"strategy={name}", f"trainer={trainer}", "trainer.devices=1", *SMALL]
    if name == "deepspeed_zero3_nvme":
        given.append(f"trainer.strategy.nvme_path={folder / 'nvme'}")
    command = [sys.executable, "-m", "lightning_rlhf.cli", "benchmark", *given, f"hydra.run.dir={folder / 'run'}"]
    log = folder / "log.txt"
    with log.open("w") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=seconds)
    if done.returncode:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise RuntimeError(lines[-1] if lines else f"exit code {done.returncode}")
    metrics = json.loads((folder / "run" / "result.json").read_text())["metrics"]
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("benchmark", [f"run_dir={folder}", *given])
    planned = peak(moments(job_of(config, "ppo"))).total
    return {**metrics, "planned_bytes": planned, "measured_to_planned": metrics["peak_tensor_bytes"] / planned}


def strategies(asked: argparse.Namespace, end: float) -> dict[str, Any]:
    """Runs all strategies, or those that were asked for, until the time is up."""
    found = {}
    for name in asked.strategy or options("strategy"):
        left = min(_LONGEST, end - time.perf_counter())
        if left < 1:
            found[name] = {"failed": f"not run: {asked.minutes:g} minutes were up", "seconds": 0.0}
            continue
        folder = asked.folder / "strategies" / name
        found[name] = attempted(lambda: strategy_run(name, folder, asked.model, asked.device, left))  # noqa: B023
        print(f"{name}: {found[name].get('failed', 'done')}", file=sys.stderr, flush=True)
    return found


def write_page(record: dict[str, Any], folder: Path) -> None:
    """Writes the record as a page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("gpu_page.html").render(**record)
    (folder / "gpu_first_run.html").write_text(page, encoding="utf-8")


def main() -> None:
    """Runs all parts and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="gpt2/small")
    parser.add_argument("--strategy", action="append", choices=options("strategy"))
    parser.add_argument("--minutes", type=float, default=10.0)
    asked = parser.parse_args()
    asked.folder = asked.folder.absolute()
    asked.folder.mkdir(parents=True, exist_ok=True)
    silence_libraries()
    end, device = time.perf_counter() + 60 * asked.minutes, torch.device(asked.device)
    record: dict[str, Any] = {"facts": facts(device), "model": asked.model}
    for name, work in {"equality": equality, "rollouts": rollouts}.items():
        record[name] = attempted(lambda: work(asked.model, device))  # noqa: B023
        print(f"{name}: {record[name].get('failed', 'done')}", file=sys.stderr, flush=True)
    record |= {"engines": [*engines(), GENERATED], "strategies": strategies(asked, end)}
    write_json(asked.folder / "gpu_first_run.json", record)
    write_page(record, asked.folder)
    print(asked.folder / "gpu_first_run.html")


if __name__ == "__main__":
    main()
