"""Ends a run that a signal has stopped: with a record that says so, the run card, and the command that goes on with it.

A signal may come while torch is being imported, which cannot be imported again then. This module does without it.
"""

import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from lightning_rlhf.assembly.going_on import command_to_go_on
from lightning_rlhf.assembly.program import program_words
from lightning_rlhf.assembly.run_files import read_record
from lightning_rlhf.distributed.launcher_watch import (
    end_ranks,
    first_rank,
    launched_by_lightning,
    started_by_slurm,
    wait_for_launcher,
)
from lightning_rlhf.interruption import Interrupted, interruption_behind, signal_of
from lightning_rlhf.saving import appearing


def leave(folder: Path, stages: Sequence[str], seed: int, error: KeyboardInterrupt) -> NoReturn:
    """Ends this process and the ranks that it has launched; the first rank completes the folder of the run.

    Args:
        folder: Folder of the run.
        stages: Stages of the run, in order.
        seed: Seed of the run.
        error: What the signal has raised.

    Raises:
        Interrupted: Always, with the message for the user, which the first rank says for all.
    """
    if launched_by_lightning():
        wait_for_launcher()
    end_ranks()
    # A closed terminal or a scheduler may send more than one signal. A second Ctrl-C ends the process at once.
    for repeated in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(repeated, signal.SIG_IGN)
    if not first_rank():
        raise Interrupted(signal_of(error), "")
    job = ", in a job like this one," if started_by_slurm() else ""
    message = f"interrupted; resume{job} with: {command_to_go_on(folder, program_words(), sys.argv[1:])}"
    try:
        record_interruption(folder, stages, seed)
    except Exception as failure:
        message = f"the folder of the run is not complete: {failure}\n{message}"
    raise Interrupted(signal_of(error), message) from error


@contextmanager
def interruptions() -> Iterator[None]:
    """Context in which a signal that stops Lightning raises KeyboardInterrupt, and ends the ranks that it has launched.

    Raises:
        KeyboardInterrupt: If a signal has come. Lightning has cleaned up by then.
    """
    try:
        yield
    except SystemExit as error:
        # Lightning exits like this after a signal.
        if (stopped := interruption_behind(error)) is None:
            raise
        end_ranks()
        raise stopped from None


def record_interruption(folder: Path, stages: Sequence[str], seed: int) -> None:
    """Writes what the folder of a run tells about its end.

    A record that says `running` becomes `interrupted`. Any other record stays as it is, such as that of a finished run
    that was to be continued, and was interrupted before it changed anything.

    Args:
        folder: Folder of the run.
        stages: Stages of the run, in order.
        seed: Seed of the run.
    """
    own = folder / "result.json"
    records = {own: read_record(own) if own.is_file() else _empty(stages, seed)}
    records |= {file: read_record(file) for stage in stages if (file := folder / stage / "result.json").is_file()}
    for file, record in records.items():
        if record.get("status") == "running":
            record["status"] = "interrupted"
            with appearing(file) as partial:
                partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    # Drawing needs matplotlib, which takes its time to import.
    from lightning_rlhf.report import write_report

    for file, record in reversed(records.items()):
        if record.get("status") == "interrupted":
            write_report(file.parent)


def _empty(stages: Sequence[str], seed: int) -> dict[str, object]:
    """The record of a run that was interrupted before it had one."""
    name = stages[0] if len(stages) == 1 else "pipeline"
    parts: dict[str, object] = {"stages": {}} if len(stages) > 1 else {}
    return {
        "stage": name,
        "status": "running",
        "metrics": {},
        "model_dir": None,
        "seconds": 0.0,
        # Naming them would import the packages.
        "versions": {},
        "seed": seed,
        **parts,
    }
