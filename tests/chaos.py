"""Kills runs at random moments, goes on with them, and compares what they leave with runs that were never stopped.

    python tests/chaos.py --kills 200

Each run is started as a user starts it, with `resume=auto`, and killed up to three times before it may finish: with
SIGKILL, with SIGTERM, or by SIGKILL of one rank alone. The moments follow from the seed. What remains in the folder is
compared bit by bit: exports, `metrics.csv` and the table of samples without their times, and the metrics of
`result.json`. Outcomes are appended to `outputs/chaos/outcomes.jsonl`; the same line goes on where it stopped.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from support import TINY, TINY_DPO, environ, keep

FOLDER = Path("outputs/chaos").absolute()
MOST_KILLS = 3
SIGNALS = ("SIGKILL", "SIGTERM", "SIGKILL of one rank")
OFTEN = ["checkpoint.every_updates=1", "logger=csv"]
PPO = [*keep(TINY, "ppo"), "reward=length"]
CASES: dict[str, list[str]] = {
    "sft": [*keep(TINY, "sft"), "sft.trainer.limit_train_batches=8", *OFTEN],
    "reward": [*keep(TINY, "reward"), "reward_model.trainer.limit_train_batches=8", *OFTEN],
    "dpo": ["model=tiny", "stage=dpo", *TINY_DPO, *OFTEN],
    "ppo": [*PPO, *OFTEN],
    "ppo, padded engine": [*PPO, "rollout=padded", *OFTEN],
    "ppo, two processes": [*PPO, "strategy=ddp", "trainer.devices=2", *OFTEN],
    "pipeline": [*TINY, *OFTEN],
}
TIMES = ("perf/", "time/", "epoch_seconds")
"""Beginnings of the names of columns that depend on the clock."""


def main() -> None:
    """Kills until there are enough kills, prints a table, and fails if a run has left anything else."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="number of kills in all")
    parser.add_argument("--seed", type=int, default=1, help="seed of the moments")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES), help="the runs to kill")
    options = parser.parse_args()
    outcomes = list(trials(options.cases, options.kills, options.seed, FOLDER))
    print_table(outcomes)
    sys.exit(any(outcome["differences"] for outcome in outcomes))


def trials(cases: Sequence[str], kills: int, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Yields the outcome of each run that was killed, until the kills are as many as asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "outcomes.jsonl"
    earlier = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    yield from earlier
    done = sum(len(outcome["kills"]) for outcome in earlier)
    number = len(earlier)
    while done < kills:
        case = cases[number % len(cases)]
        outcome = trial(case, random.Random(f"{seed} {number}"), folder)
        with kept.open("a") as file:
            file.write(json.dumps(outcome) + "\n")
        how = ", ".join(outcome["kills"]) or "not killed in time"
        print(f"{case}: {how}: {outcome['differences'] or 'equal'}", flush=True)
        yield outcome
        done, number = done + len(outcome["kills"]), number + 1


def trial(case: str, chance: random.Random, folder: Path) -> dict[str, Any]:
    """Kills one run a few times, lets it finish, and compares it with a whole one."""
    whole = folder / f"whole {case}".replace(" ", "_").replace(",", "")
    timed = whole / "seconds"
    if not timed.exists():
        shutil.rmtree(whole, ignore_errors=True)
        start = time.monotonic()
        finish(case, whole)
        timed.write_text(str(time.monotonic() - start))
    torn = folder / "torn"
    shutil.rmtree(torn, ignore_errors=True)
    kills = []
    for _ in range(chance.randint(1, MOST_KILLS)):
        kind = chance.choice(SIGNALS if "processes" in case else SIGNALS[:2])
        # The first seconds only import; a part of the moments lies behind the end.
        moment = chance.uniform(0.2, 1.05) * float(timed.read_text())
        if killed(case, torn, moment, kind):
            kills.append(f"{kind} after {moment:.1f} s in {phase_of(torn)}")
    finish(case, torn)
    return {"case": case, "kills": kills, "differences": differences(whole, torn)}


def start(case: str, folder: Path) -> subprocess.Popen[bytes]:
    """Starts or goes on with a run, in a process group of its own."""
    words = [*CASES[case], "resume=auto", f"hydra.run.dir={folder}"]
    with (folder.parent / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "lightning_rlhf.cli", "train", *words],
            cwd=folder.parent,
            env=environ(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def finish(case: str, folder: Path) -> None:
    """Lets a run come to its end.

    Raises:
        RuntimeError: If it does not.
    """
    if code := start(case, folder).wait(600):
        raise RuntimeError(f"{case} in {folder} ended with exit code {code}; {folder.parent / 'log.txt'} says why")


def killed(case: str, folder: Path, seconds: float, kind: str) -> bool:
    """Ends a run after some seconds; returns whether it had not ended by itself."""
    with start(case, folder) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            if kind == "SIGTERM":
                process.send_signal(signal.SIGTERM)
            elif kind == "SIGKILL of one rank" and (ranks := children(process.pid)):
                os.kill(ranks[-1], signal.SIGKILL)
            else:
                os.killpg(process.pid, signal.SIGKILL)
            try:
                process.wait(60)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
            return True
    return False


def children(pid: int) -> list[int]:
    """The other ranks of a run, which are its children that run the same program."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"lightning_rlhf" in Path(f"/proc/{child}/cmdline").read_bytes()]


def phase_of(folder: Path) -> str:
    """What the run was doing, by what is in its folder."""
    if not folder.exists():
        return "its start"
    stage = next((path.parent.name for path in folder.glob("*/checkpoints")), "the stage")
    partial = any(path.name.endswith(".partial") for path in folder.rglob("*"))
    return f"{stage}, writing" if partial else stage


def differences(whole: Path, torn: Path) -> list[str]:
    """The names of all files in which a run differs from a whole one."""
    left, right = contents(whole), contents(torn)
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))


def contents(folder: Path) -> dict[str, object]:
    """What a run leaves, without times and paths."""
    found: dict[str, object] = {}
    for file in folder.rglob("*"):
        name = str(file.relative_to(folder))
        if file.name.endswith(".safetensors"):
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
        elif file.name == "metrics.csv":
            with file.open() as rows:
                found[name] = [timeless(row) for row in csv.DictReader(rows)]
        elif file.name == "samples.jsonl":
            found[name] = [json.loads(line) for line in file.read_text().splitlines()]
        elif file.name == "result.json":
            found[name] = json.loads(file.read_text())["metrics"]
    return found


def timeless(row: dict[str, str]) -> dict[str, str]:
    """A row of metrics without what the clock says."""
    return {name: value for name, value in row.items() if not name.startswith(TIMES)}


def print_table(outcomes: Sequence[dict[str, Any]]) -> None:
    """Prints how many runs and kills there were, and how many runs are equal to whole ones."""
    kinds: Counter[tuple[str, str]] = Counter()
    for outcome in outcomes:
        kinds.update((outcome["case"], kill.partition(" after")[0]) for kill in outcome["kills"])
    print(f"{'run':<20} {'runs':>5} {'equal':>6}  " + "  ".join(f"{kind:>20}" for kind in SIGNALS))
    for case in dict.fromkeys(outcome["case"] for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome["case"] == case]
        equal = sum(not outcome["differences"] for outcome in own)
        print(f"{case:<20} {len(own):>5} {equal:>6}  " + "  ".join(f"{kinds[case, kind]:>20}" for kind in SIGNALS))


if __name__ == "__main__":
    main()
