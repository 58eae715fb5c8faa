"""Measures how waiting threads and freed memory are best treated on this machine; see docs/performance.md.

    python benchmarks/process_settings.py threads [--row rollout_geometric] [--turns 2] [--busy]
    python benchmarks/process_settings.py memory [--row sft] [--turns 2]

ROW is a name of benchmarks/peers/rows.py, whose work this package does. The settings of `threads` or `memory` take
turns, each in a process of its own, whose rate is printed. With --busy, another process computes all the time on one
core. `chosen` is what the command line chooses, and `library` is the default of OpenMP and of glibc.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent / "peers"))

from compare import work_of
from rows import BENCHMARKS, ROWS

SETTINGS: dict[str, dict[str, dict[str, str]]] = {
    "threads": {
        "sleeps at once": {"OMP_WAIT_POLICY": "PASSIVE"},
        "chosen": {},
        "spins 10,000 times": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"},
        # As GNU's OpenMP does by itself.
        "library": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "300000"},
    },
    # Any variable of this kind lets the command line leave glibc alone; this one has the value that glibc starts with.
    "memory": {"library": {"MALLOC_MMAP_MAX_": "65536"}, "chosen": {}},
}
"""Variables of the environment by what they set."""
_OVERRULING = ("OMP_", "GOMP_", "MALLOC_", "GLIBC_TUNABLES")


def rate(row_name: str, work: dict[str, Any], setting: dict[str, str]) -> float:
    """The rate of this package for the work of a row, in a process with a setting.

    Args:
        row_name: Name of the row.
        work: The fields of `work.Work`.
        setting: Variables of the environment.
    """
    row = ROWS[row_name]
    script, *arguments = row.ours
    if script == "peers/ours_ppo.py":
        arguments.append(row.model)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OVERRULING)}
    paths = os.pathsep.join([str(BENCHMARKS.parent / "src"), str(BENCHMARKS / "peers")])
    environment = {**inherited, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(work["threads"]), **setting}
    with tempfile.TemporaryDirectory() as folder:
        told, found = Path(folder) / "work.json", Path(folder) / "result.json"
        told.write_text(json.dumps(work))
        command = [sys.executable, BENCHMARKS / "as_command.py", BENCHMARKS / script, told, found, *arguments]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{script} has failed:\n{done.stderr[-4000:]}")
        return float(json.loads(found.read_text())["rate"])


@contextmanager
def another_process(*, wanted: bool) -> Iterator[None]:
    """Context in which another process uses a core, if that is wanted."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Prints the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=SETTINGS)
    parser.add_argument("--row", choices=ROWS)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2, help="rollouts, iterations or epochs of a turn")
    parser.add_argument("--busy", action="store_true")
    chosen = parser.parse_args()
    name = chosen.row or {"threads": "rollout_geometric", "memory": "sft"}[chosen.what]
    work = work_of(ROWS[name], []) | {"repeats": chosen.repeats}
    with another_process(wanted=chosen.busy):
        for turn in range(1, chosen.turns + 1):
            for what, setting in SETTINGS[chosen.what].items():
                print(f"{name}, turn {turn}, {what}: {rate(name, work, setting):,.4g} {ROWS[name].unit}", flush=True)


if __name__ == "__main__":
    main()
