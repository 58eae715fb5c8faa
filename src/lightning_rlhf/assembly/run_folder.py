"""The folder of a run: one for all its processes, and none for a dry run or for a run that did not begin."""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning_rlhf.assembly.user_message import user_message
from lightning_rlhf.distributed.launcher_watch import first_rank, started_by_slurm
from lightning_rlhf.errors import UserError
from lightning_rlhf.interruption import interruption_behind
from lightning_rlhf.saving import write_json

# How the names of the folders begin that dry runs take, and remove at their end.
_DRY_RUN = ".dry_run_"
_BEFORE_A_RUN = {".hydra", "train.log"}
"""What is written into a run folder before the run has begun."""


@contextmanager
def accounted_for(folder: Path, stages: list[str], *, keep: bool = False) -> Iterator[None]:
    """Context in which an error leaves no run folder in which nothing was done, or one whose `result.json` says so.

    The same holds for a signal; the first of several processes then accounts for the folder.

    Args:
        folder: The run folder, which Hydra has made.
        stages: The stages of the run.
        keep: Whether the folder stays, as that of a job of a sweep does.
    """
    try:
        yield
    except BaseException as error:
        stopped = interruption_behind(error)
        if stopped is None and not isinstance(error, Exception) or stopped is not None and not first_rank():
            raise
        if folder.is_dir() and not keep and {path.name for path in folder.iterdir()} <= _BEFORE_A_RUN:
            # Other processes of the run may be removing it too.
            shutil.rmtree(folder, ignore_errors=True)
            _remove_empty(folder.parent)
        elif folder.is_dir() and not (folder / "result.json").exists():
            record: dict[str, object] = {
                "stage": stages[0] if len(stages) == 1 else "pipeline",
                "status": "failed" if stopped is None else "interrupted",
                "metrics": {},
                "model_dir": None,
                "seconds": 0.0,
            }
            if stopped is None:
                record["error"] = user_message(error) or f"{type(error).__name__}: {error}"
            write_json(folder / "result.json", record)
        raise


def _remove_empty(folder: Path) -> None:
    """Removes `outputs/<stage>` and then `outputs`, if they are empty. A folder that the user has named stays."""
    outputs = Path("outputs").absolute()
    if folder.parent == outputs:
        for path in (folder, outputs):
            with suppress(OSError):
                path.rmdir()


def agreed_time() -> str | None:
    """The time at which the first process started, in the format of the names of run folders.

    Returns:
        The time, or None if neither torchrun nor SLURM started several processes. Lightning passes the run folder to
        the processes that it starts itself.
    """
    own = time.strftime("%Y-%m-%d_%H-%M-%S")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _agree(own, *_torchrun())
    if started_by_slurm():
        return _agree(own, *_slurm())
    return None


def dry_run_folder(words: Sequence[str], time: str) -> list[str]:
    """The override that gives a dry run a folder of its own, whatever folder other overrides name.

    Args:
        words: The command line.
        time: The end of the name of the folder.

    Returns:
        The override, which follows all others; nothing if the command line has one already. Lightning starts other
        processes with the arguments of the first one, to which it adds the folder of that one.

    Raises:
        UserError: If the dry run is one of several runs, whose common folder would stay.
    """
    if {"-m", "--multirun"} & set(words):
        raise UserError("dry_run=true: only one run at a time can be tried: leave out --multirun")
    own = f"hydra.run.dir={_DRY_RUN}"
    return [] if any(word.startswith(own) for word in words) else [own + time]


@contextmanager
def removed_at_end(folder: Path) -> Iterator[None]:
    """Context whose end removes the folder of a dry run, also after an error. The first process does so for all.

    Raises:
        UserError: If `dry_run_folder` has not chosen the folder.
    """
    if not folder.name.startswith(_DRY_RUN):
        raise UserError("dry_run: give it on the command line, as dry_run=true, because its folder is removed")
    try:
        yield
    finally:
        from lightning_rlhf.distributed.collectives import is_first_process

        if is_first_process():
            shutil.rmtree(folder, ignore_errors=True)


def _torchrun() -> tuple[object, int]:
    """The key-value store of torchrun, and the rank of this process."""
    from torch.distributed import rendezvous

    store, rank, _ = next(rendezvous("env://"))
    return store, rank


def _slurm() -> tuple[object, int]:
    """A key-value store at another port than the one where Lightning will connect the processes, and this rank."""
    from lightning.fabric.plugins.environments import SLURMEnvironment
    from torch.distributed import TCPStore

    environment = SLURMEnvironment()
    rank, port = environment.global_rank(), _free_of_jobs(environment.main_port)
    return TCPStore(environment.main_address, port, environment.world_size(), is_master=rank == 0), rank


def _free_of_jobs(port: int) -> int:
    """A port that no job uses for Lightning, which takes 15000 plus the last four digits of the job number."""
    distance = 10_000
    return port + distance if port < 2**16 - distance else port - distance


def _agree(own: str, store: object, rank: int) -> str:
    from torch.distributed import PrefixStore

    shared = PrefixStore("lightning_rlhf", store)  # type: ignore[arg-type]
    if rank == 0:
        shared.set("start", own)
    agreed = shared.get("start").decode()
    # The first process hosts the store, so it must not leave before all processes have read the value.
    shared.add("read", 1)
    while rank == 0 and shared.add("read", 0) < int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", 1))):
        time.sleep(0.01)
    return agreed
