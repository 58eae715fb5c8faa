"""Completes the command line of a command before Hydra reads it."""

import sys
from collections.abc import Sequence

from lightning_rlhf.assembly.going_on import with_earlier_overrides
from lightning_rlhf.assembly.run_folder import agreed_time, dry_run_folder
from lightning_rlhf.assembly.sweep_overrides import without_idle


def completed(words: Sequence[str]) -> list[str]:
    """Completes the command line of `train`.

    Adds the overrides of a run that goes on and the folder of the run, and leaves out what a sweep does not use.

    Args:
        words: The command line without the program.

    Raises:
        UserError: If the command line contradicts itself.
    """
    found, note = without_idle(with_earlier_overrides(words))
    if note:
        print(f"note: {note}", file=sys.stderr)
    agreed = agreed_time()
    found = [*_agreed_folder("${hydra:runtime.choices.stage}", agreed), *found]
    if "dry_run=true" in map(str.lower, found):
        # Comes last, because a dry run never writes into another folder.
        found += dry_run_folder(found, agreed or "${now:%Y-%m-%d}_${now:%H-%M-%S}")
    return found


def in_agreed_folder(words: Sequence[str], command: str) -> list[str]:
    """Adds the folder that all processes of a command agree on, if there are several; see `agreed_time`.

    Args:
        words: The command line without the program.
        command: The command, after which the folder is named.
    """
    return [*_agreed_folder(command, agreed_time()), *words]


def _agreed_folder(parent: str, agreed: str | None) -> list[str]:
    # Comes first, so that an override of the user wins.
    return [] if agreed is None else [f"hydra.run.dir=outputs/{parent}/{agreed}"]
