"""The strategies that are compared with one process, and what may differ."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from compare import launch


@dataclass(frozen=True)
class Case:
    """How a strategy is run, and how far it may lie from one process."""

    numbers: float = 1e-5
    """Of the largest loss, norm, score; in fp32 they were at most 2e-6 apart."""
    kl: float = 1e-6
    """In nats."""
    weights: float = 2e-5
    """Of weights that six steps of Adam have moved by up to 6e-3."""
    like: str | None = None
    """The strategy that it is compared with, in two processes with the same settings; None: one process, in fp32."""
    settings: tuple[str, ...] = ()
    parts: int = 2
    """Of a minibatch, in the run that goes on."""
    resumes: bool = True
    """Whether a run goes on from its checkpoints."""
    divides: bool = False
    """Whether weights are divided, those of frozen nets too."""
    worker: str = "worker.py"


# Of this process: two runs that share a folder overwrite each other.
_DISK = str(Path(tempfile.gettempdir()) / f"lightning_rlhf_nvme_{os.getpid()}")
_GEMINI = Case(
    # Gemini computes in 16 bits, and bf16 has three digits: sums in another order differ in the last of them.
    numbers=1e-2,
    kl=1e-2,
    weights=1e-3,
    parts=1,
    like="colossalai_zero2",
    settings=(
        "trainer.precision=bf16-mixed",
        # Chunks so small that a tiny net is divided at all.
        "+trainer.strategy.plugin.min_chunk_size_m=0.004",
        "+trainer.strategy.plugin.search_range_m=0",
        "+trainer.strategy.plugin.pin_memory=false",
        "+trainer.strategy.plugin.enable_async_reduce=false",
    ),
    divides=True,
    worker="gemini_on_cpu.py",
)
CASES = {
    "ddp": Case(),
    "fsdp": Case(divides=True),
    "fsdp2": Case(divides=True),
    "deepspeed_zero1": Case(),
    "deepspeed_zero2": Case(),
    "deepspeed_zero3": Case(divides=True),
    "deepspeed_zero2_offload": Case(),
    "deepspeed_zero3_offload": Case(divides=True),
    "deepspeed_zero3_nvme": Case(
        # DeepSpeed does not read back what it has left on the disk.
        resumes=False,
        divides=True,
        settings=(f"trainer.strategy.nvme_path={_DISK}",),
    ),
    "colossalai_zero1": Case(),
    "colossalai_zero1_cpu": Case(),
    "colossalai_zero2": Case(),
    "colossalai_zero2_cpu": Case(),
    "colossalai_gemini": _GEMINI,
    "colossalai_gemini_cpu": _GEMINI,
    "colossalai_gemini_auto": _GEMINI,
}


def beyond(name: str, found: dict[str, float]) -> dict[str, float]:
    """What lies further apart than a strategy may."""
    case = CASES[name]
    return {
        quantity: apart for quantity, apart in found.items() if apart > (case.kl if quantity == "kl" else case.numbers)
    }


def reference(name: str, single: Path, folder: Path) -> Path:
    """What a strategy is compared with: a run in one process, or one that is made for it."""
    like = CASES[name].like
    if like is None:
        return single
    if not folder.exists():
        launch(folder, like, "trainer.devices=2", CASES[name].settings[0], f"start={single}")
    return folder


def train(name: str, single: Path, folder: Path) -> None:
    """The three stages in two processes, which are killed at the end."""
    case = CASES[name]
    settings = ["trainer.devices=2", *case.settings, f"start={single}", "die=yes"]
    launch(folder, name, *settings, worker=case.worker)


def go_on(name: str, single: Path, first: Path, folder: Path) -> None:
    """The second half once more, from the checkpoints, in new processes and smaller parts."""
    case = CASES[name]
    settings = ["trainer.devices=2", *case.settings, f"start={single}", f"resume={first}"]
    launch(folder, name, *settings, f"STAGE.trainer.accumulate_grad_batches={case.parts}", worker=case.worker)
