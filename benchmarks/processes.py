"""Compares two processes of one thread each (DDP) with one process of one thread, in PPO iterations.

    python benchmarks/processes.py [--repeats N] [--results FILE] [override …]

The two run `lightning-rlhf benchmark` in turn, N times (3), on the same work: a minibatch has the same rows, whichever
number of processes shares it. The ratio is that of the medians; its spread is the smallest and the largest ratio within
a turn. Overrides are those of `benchmark`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.append(str(Path(__file__).parent / "peers"))

from compare import faster_by, machine, publish

RUNS = {"1 process": ("trainer.devices=1",), "2 processes": ("trainer.devices=2", "strategy=ddp")}
BAR = 1.7


def seconds(settings: tuple[str, ...], overrides: list[str]) -> float:
    """Runs the benchmark, and returns the seconds of an iteration.

    Raises:
        SystemExit: If it fails; the message is what it wrote last.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lightning_rlhf.cli", "benchmark", f"hydra.run.dir={folder}/run"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [*command, *settings, *overrides], env=environment, capture_output=True, text=True, cwd=folder
        )
        if done.returncode:
            said = f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
            raise SystemExit(f"benchmark {' '.join(settings)} has failed:\n{said}")
        result = json.loads((Path(folder) / "run" / "result.json").read_text())
        return float(result["metrics"]["iteration_seconds"])


def main() -> None:
    """Compares, prints and appends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path)
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_args()
    rates: dict[str, list[float]] = {name: [] for name in RUNS}
    for turn in range(asked.repeats):
        for name, settings in RUNS.items():
            rates[name].append(1 / seconds(settings, asked.overrides))
            print(f"{turn + 1}/{asked.repeats} {name}: {rates[name][-1]:.4g} iterations/s", file=sys.stderr, flush=True)
    one, two = rates.values()
    ratio, low, high = faster_by(two, one)
    lines = [
        "### processes",
        "",
        "PPO iteration, gpt2/bench_tiny, 32+32 tokens, batch 32, minibatch 8, 4 epochs; one thread in each process.",
        "",
        "| processes | iterations/s, median | faster by | spread | bar |",
        "| --- | --- | --- | --- | --- |",
        f"| 1 | {median(one):.4g} | | | |",
        f"| 2 (DDP) | {median(two):.4g} | **{ratio:.2f} ×** | {low:.2f}–{high:.2f} | {BAR:g} × |",
        "",
        machine(asked.repeats),
        "",
        "```bash",
        " ".join(["python benchmarks/processes.py", f"--repeats {asked.repeats}", *asked.overrides]),
        "```",
        "",
    ]
    publish("\n".join(lines), asked.results)


if __name__ == "__main__":
    main()
