"""The words that start this program again in the way in which it was started, without its overrides."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_rlhf.distributed.launcher_watch import started_by_slurm


def program_words() -> list[str]:
    """The words before the overrides of `train`; with torchrun or srun, if that has started this process."""
    # The installed program puts the file of the command into argv.
    own = ["python", "train.py"] if Path(sys.argv[0]).parent.name != "cli" else ["lightning-rlhf", "train"]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return through_torchrun(_words_of(os.getppid()), sys.orig_argv) or own
    return ["srun", *own] if started_by_slurm() else own


def through_torchrun(launcher: Sequence[str], rank: Sequence[str]) -> list[str]:
    """The words of torchrun without the overrides that it has passed on.

    Args:
        launcher: All words of the process that runs torchrun.
        rank: All words of a process that it has started.

    Returns:
        The words, or none if the launcher is not torchrun.
    """
    program = next((place for place, word in enumerate(rank) if Path(word).name in ("train.py", "train")), len(rank))
    overrides = len(rank) - program - 1
    if overrides < 0 or list(launcher[len(launcher) - overrides :]) != list(rank[program + 1 :]):
        return []
    interpreter, *words = launcher[: len(launcher) - overrides]
    if words[:1] == ["-m"]:
        return [Path(interpreter).name, *words]
    return [Path(words[0]).name, *words[1:]]


def _words_of(process: int) -> list[str]:
    """The command line of a process, where the system tells it as Linux does; see proc(5)."""
    file = Path(f"/proc/{process}/cmdline")
    return file.read_text(encoding="utf-8").rstrip("\0").split("\0") if file.is_file() else []
