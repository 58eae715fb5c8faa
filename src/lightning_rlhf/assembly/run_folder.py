"""The folder of a run: one for all processes that torchrun or SLURM started, and none for a run that did not begin."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_rlhf.assembly.user_message import user_message
from lightning_rlhf.saving import appearing

_BEFORE_A_RUN = {".hydra", "train.log"}
"""What is written into a run folder before the run has begun."""


@contextmanager
def accounted_for(folder: Path, stages: list[str], *, keep: bool = False) -> Iterator[None]:
    """Context in which an error leaves no run folder in which nothing was done, or one whose `result.json` says so.

    Args:
        folder: The run folder, which Hydra has made.
        stages: The stages of the run.
        keep: Whether the folder stays, as that of a job of a sweep does.
    """
    try:
        yield
    except Exception as error:
        if folder.is_dir() and not keep and {path.name for path in folder.iterdir()} <= _BEFORE_A_RUN:
            # Other processes of the run may be removing it too.
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.is_dir() and not (folder / "result.json").exists():
            record: dict[str, object] = {
                "stage": stages[0] if len(stages) == 1 else "pipeline",
                "status": "failed",
                "error": user_message(error) or f"{type(error).__name__}: {error}",
                "metrics": {},
                "model_dir": None,
                "seconds": 0.0,
            }
            with appearing(folder / "result.json") as partial:
                partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        raise


def agreed_time() -> str | None:
    """The time at which the first process started, in the format of the names of run folders.

    Returns:
        The time, or None if neither torchrun nor SLURM started several processes. Lightning passes the run folder to
        the processes that it starts itself.
    """
    own = time.strftime("%Y-%m-%d_%H-%M-%S")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _agree(own, *_torchrun())
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1 and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return _agree(own, *_slurm())
    return None


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
