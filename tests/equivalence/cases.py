"""The strategies that are compared with one process, and how far each may differ."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from compare import launch


@dataclass(frozen=True)
class Case:
    """How a strategy is run, and how far it may differ from one process."""

    numbers: float = 1e-5
    """Allowed difference of loss, norm and score, relative to the largest; in fp32, at most 2e-6 was measured."""
    kl: float = 1e-6
    """Allowed difference of the KL in nats."""
    weights: float = 2e-5
    """Allowed difference of the weights, which six steps of Adam have moved by up to 6e-3."""
    like: str | None = None
    """The strategy to compare with, in two processes with the same settings; None for one process in fp32."""
    settings: tuple[str, ...] = ()
    parts: int = 2
    """Number of parts of a minibatch in the resumed run."""
    resumes: bool = True
    """Whether a run can be resumed from its checkpoints."""
    divides: bool = False
    """Whether weights are sharded, including those of frozen models."""
    worker: str = "worker.py"


# Each process has a folder of its own, since two runs that share one overwrite each other's files.
_DISK = str(Path(tempfile.gettempdir()) / f"lightning_rlhf_nvme_{os.getpid()}")
_GEMINI = Case(
    # Gemini computes in bf16, which has three digits, and sums in another order differ in the last one.
    numbers=1e-2,
    kl=1e-2,
    # Weights of a quarter to a half have steps of 2^-9 in bf16; one of 46,720 is a step apart.
    weights=2e-3,
    parts=1,
    like="colossalai_zero2",
    settings=(
        "trainer.precision=bf16-mixed",
        # Chunks must be this small for a tiny model to be sharded at all.
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
        # DeepSpeed does not read back the state that it has offloaded to disk.
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
    """Returns the differences that exceed the limits of a strategy."""
    case = CASES[name]
    return {
        quantity: apart for quantity, apart in found.items() if apart > (case.kl if quantity == "kl" else case.numbers)
    }


def reference(name: str, single: Path, folder: Path) -> Path:
    """Returns the run that a strategy is compared with: one in a single process, or one that is made for it."""
    like = CASES[name].like
    if like is None:
        return single
    if not folder.exists():
        launch(folder, like, "trainer.devices=2", CASES[name].settings[0], f"start={single}")
    return folder


def train(name: str, single: Path, folder: Path) -> None:
    """Runs the three stages in two processes, which are killed at the end."""
    case = CASES[name]
    settings = ["trainer.devices=2", *case.settings, f"start={single}", "die=yes"]
    launch(folder, name, *settings, worker=case.worker)


def go_on(name: str, single: Path, first: Path, folder: Path) -> None:
    """Runs the second half again from the checkpoints, in new processes and smaller parts."""
    case = CASES[name]
    settings = ["trainer.devices=2", *case.settings, f"start={single}", f"resume={first}"]
    launch(folder, name, *settings, f"STAGE.trainer.accumulate_grad_batches={case.parts}", worker=case.worker)
