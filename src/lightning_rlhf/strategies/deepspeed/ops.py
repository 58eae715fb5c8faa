"""Operators that DeepSpeed compiles when they are first used, or `python -m lightning_rlhf.strategies.deepspeed.ops`.

Compiling takes a minute or two for each operator. The result stays in the user's folder for torch's extensions. A
process that is killed while it compiles leaves a file `lock` there, for which later processes wait. Tests therefore
compile the operators before they set time limits.
"""

import logging
import os
from collections.abc import Iterable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils import cpp_extension

from lightning_rlhf.errors import UserError, require

log = logging.getLogger(__name__)

COMMUNICATION, CPU_ADAM, DISK = "ShareMemCommBuilder", "CPUAdamBuilder", "AsyncIOBuilder"


def choose_accelerator() -> None:
    """Tells DeepSpeed before its import to use the CPU if there is no GPU; otherwise it would print a warning."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def load_op(name: str) -> None:
    """Loads an operator, and logs a message if it has to be compiled.

    Args:
        name: The name of DeepSpeed's builder.

    Raises:
        UserError: If this machine lacks the libraries or tools to compile it.
    """
    from deepspeed.accelerator import get_accelerator

    builder = get_accelerator().create_op_builder(name)
    if builder is None or not builder.is_compatible():
        needs = ": install libaio-dev (Debian) or libaio-devel" if name == DISK else ""
        raise UserError(f"DeepSpeed cannot build its operator {name} on this machine{needs}")
    folder = Path(cpp_extension._get_build_directory(builder.name, False))
    if (folder / "lock").exists():
        log.warning(
            "waiting for a process that compiles %s; if there is none, remove %s", builder.name, folder / "lock"
        )
    elif not (folder / f"{builder.name}.so").is_file():
        log.info("compiling %s of DeepSpeed once, which takes a minute or two (into %s)", builder.name, folder)
    with redirect_stdout(StringIO()):
        builder.load()


def prepare_disk(zero: dict[str, Any]) -> None:
    """Loads the operator that writes to the disk if the optimizer rests there, and warns about its checkpoints.

    Args:
        zero: DeepSpeed's `zero_optimization`.

    Raises:
        UserError: If this machine lacks the libraries or tools to compile it.
    """
    if zero.get("offload_optimizer", {}).get("device") == "nvme":
        load_op(DISK)
        log.warning("a run with its optimizer on NVMe cannot be resumed from its checkpoints; its exports are complete")


def cpu_adamw(params: Iterable[dict[str, object]], lr: float, betas: tuple[float, float], eps: float) -> Optimizer:
    """Returns an AdamW that computes on the CPU, for offloading the optimizer.

    Args:
        params: Parameter groups.
        lr: The learning rate of groups without one of their own.
        betas: Decay of the averages of the gradient and of its square.
        eps: The number added to the denominator.

    Raises:
        UserError: If DeepSpeed is not installed.
    """
    require("deepspeed", "deepspeed", "optim=cpu_adamw")
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    load_op(CPU_ADAM)
    return DeepSpeedCPUAdam(params, lr=lr, betas=betas, eps=eps, adamw_mode=True)


def check_offloaded(optimizer: Optimizer, config: dict[str, Any]) -> None:
    """Checks that an offloaded optimizer can compute on the CPU.

    Args:
        optimizer: The optimizer that the module has built.
        config: The configuration of DeepSpeed.

    Raises:
        UserError: If it cannot; DeepSpeed itself would refuse it later, with a message that names no setting.
    """
    from deepspeed.ops.adam import DeepSpeedCPUAdam
    from deepspeed.ops.lion import DeepSpeedCPULion

    offloads = "offload_optimizer" in config.get("zero_optimization", {})
    forced = config.get("zero_force_ds_cpu_optimizer", True)
    if offloads and forced and not isinstance(optimizer, DeepSpeedCPUAdam | DeepSpeedCPULion):
        raise UserError(
            f"DeepSpeedStrategy: offload_optimizer=true, but {type(optimizer).__name__} is slow on the CPU: set "
            "optim=cpu_adamw"
        )


if __name__ == "__main__":
    choose_accelerator()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for op in (COMMUNICATION, CPU_ADAM):
        load_op(op)
    try:
        load_op(DISK)
    except UserError as error:
        log.info("%s; only strategy=deepspeed_zero3_nvme needs it", error)
