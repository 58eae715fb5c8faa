"""Trains in two processes again and again, and counts the processes that do not end as they should.

    PYTHONPATH=tests python tests/equivalence/endings.py FOLDER 200

The strategies take turns. A run is six steps of fine-tuning by `worker.py`, which uses the strategy from Python, or two
steps by the command `train`. Both processes are copies of this one, which has imported the libraries already; apart
from that, they end as any other process does. Each must exit with code 0, and must not print that it was terminated.
If one does not, its output is written to FOLDER, and the exit code of the script is 1.
"""

import os
import shutil
import sys
from pathlib import Path

import gemini_on_cpu
import worker
from cases import CASES
from rich.console import Console
from support import TINY, free_port, keep

from lightning_rlhf.cli import train
from lightning_rlhf.strategies.colossalai import cpu as colossalai_cpu

STRATEGIES = [name for name, case in CASES.items() if case.resumes]
CONSOLE = Console(highlight=False)


def run(name: str, folder: Path, *, by_train: bool) -> None:
    """Runs one process of a run."""
    if by_train:
        settings = [*keep(TINY, "sft"), "logger=none", f"strategy={name}", "trainer.devices=2"]
        sys.argv = [str(train.__file__), *settings, f"hydra.run.dir={folder}"]
        train.main()
        return
    # This replaces nothing for strategies other than Gemini.
    colossalai_cpu.choose_accelerator = gemini_on_cpu.choose_accelerator
    worker.run(folder, name, ["stages=sft", "trainer.devices=2", *CASES[name].settings])


def start(rank: int, port: int, log: Path) -> int:
    """Forks this process; returns the id of the copy, or 0 in the copy, whose output goes to a file."""
    pid = os.fork()
    if pid == 0:
        os.environ |= {"LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
    return pid


def ends(name: str, folder: Path, *, by_train: bool) -> list[tuple[int, str]]:
    """Returns exit code and output of each process of a run."""
    port, logs = free_port(), [folder / f"{rank}.log" for rank in range(2)]
    folder.mkdir()
    pids = []
    for rank, log in enumerate(logs):
        pids.append(start(rank, port, log))
        if pids[-1] == 0:
            run(name, folder / "run", by_train=by_train)
            # This unwinds all callers, so the copy ends as any program does.
            raise SystemExit
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    return [(code, log.read_text()) for code, log in zip(codes, logs, strict=True)]


def main(folder: Path, runs: int) -> int:
    """Prints a line for each run that ended badly, and their number at the end."""
    bad = 0
    for number in range(runs):
        name = STRATEGIES[number % len(STRATEGIES)]
        # Gemini runs on a CPU only under the worker.
        by_train = CASES[name].worker == "worker.py" and number // len(STRATEGIES) % 2 == 1
        found = ends(name, folder / "now", by_train=by_train)
        shutil.rmtree(folder / "now")
        if any(code or "terminate called" in text for code, text in found):
            bad += 1
            log = folder / f"{number}_{name}.log"
            log.write_text("\n\n".join(f"exit code {code}\n{text}" for code, text in found))
            CONSOLE.print(f"{name}: exit codes {[code for code, _ in found]}, see {log}")
        elif number % 10 == 9:
            CONSOLE.print(f"{number + 1} runs, {bad} ended badly")
    CONSOLE.print(f"{runs} runs, {bad} ended badly")
    return int(bad > 0)


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
