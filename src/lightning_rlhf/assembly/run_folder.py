"""One run folder for all processes of a run that torchrun or SLURM started: each reads the clock for itself."""

import os
import time


def agreed_time() -> str | None:
    """The time at which the first process started, as run folders are named.

    Returns:
        None for a process that was not started as one of several: Lightning hands its folder to those that it starts.
    """
    own = time.strftime("%Y-%m-%d_%H-%M-%S")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _agree(own, *_torchrun())
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1 and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return _agree(own, *_slurm())
    return None


def _torchrun() -> tuple[object, int]:
    """Its key-value store, and the rank of this process."""
    from torch.distributed import rendezvous

    store, rank, _ = next(rendezvous("env://"))
    return store, rank


def _slurm() -> tuple[object, int]:
    """A key-value store beside the address where Lightning will connect the processes, and the rank of this one."""
    from lightning.fabric.plugins.environments import SLURMEnvironment
    from torch.distributed import TCPStore

    environment = SLURMEnvironment()
    rank, port = environment.global_rank(), _free_of_jobs(environment.main_port)
    return TCPStore(environment.main_address, port, environment.world_size(), is_master=rank == 0), rank


def _free_of_jobs(port: int) -> int:
    """A port that is no job's own: Lightning's are 15000 and the last four digits of the job's number."""
    distance = 10_000
    return port + distance if port < 2**16 - distance else port - distance


def _agree(own: str, store: object, rank: int) -> str:
    from torch.distributed import PrefixStore

    shared = PrefixStore("lightning_rlhf", store)  # type: ignore[arg-type]
    if rank == 0:
        shared.set("start", own)
    agreed = shared.get("start").decode()
    # The first process holds the store: it must not leave before all have read.
    shared.add("read", 1)
    while rank == 0 and shared.add("read", 0) < int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", 1))):
        time.sleep(0.01)
    return agreed
