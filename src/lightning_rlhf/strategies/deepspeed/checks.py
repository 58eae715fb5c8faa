"""Errors about what DeepSpeed cannot do, raised before models are built."""

import inspect
import logging
import warnings
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.strategies import DeepSpeedStrategy

from lightning_rlhf.errors import UserError, raise_problems


def check_settings(
    stage: int, offload_parameters: bool, offload_device: str, nvme_path: str | None, others: Mapping[str, Any]
) -> None:
    """Checks the settings of the strategy.

    Raises:
        UserError: If one is unknown or impossible; all such at once.
    """
    known = inspect.signature(DeepSpeedStrategy.__init__).parameters
    problems = [f"{name}={value}: there is no such setting" for name, value in others.items() if name not in known]
    if stage not in (1, 2, 3):
        problems.append(f"stage={stage} must be 1, 2 or 3")
    if offload_device not in ("cpu", "nvme"):
        problems.append(f"offload_device={offload_device} must be cpu or nvme")
    if stage != 3 and (offload_parameters or offload_device == "nvme"):
        problems.append("offload_parameters and offload_device=nvme need stage=3")
    if offload_device == "nvme" and not nvme_path:
        problems.append("offload_device=nvme needs nvme_path, a folder on the disk")
    raise_problems(f"DeepSpeedStrategy: {problem}" for problem in problems)


def check_cpu(precision: str) -> None:
    """Checks what the trainer wants of DeepSpeed on the CPU.

    Raises:
        UserError: If it is not possible.
    """
    from deepspeed.accelerator import get_accelerator

    device = get_accelerator().device_name()
    if precision.startswith("16"):
        raise UserError(f"trainer.precision={precision}: DeepSpeed has no fp16 on the CPU; take bf16-mixed or 32-true")
    if device != "cpu":
        raise UserError(
            f"trainer.accelerator=cpu, but DeepSpeed has chosen {device}, since this machine has it: set the "
            "environment variable DS_ACCELERATOR=cpu"
        )


def silence_libraries() -> None:
    """Silences messages that come with each start or step, and about which a user can do nothing."""
    logging.getLogger("lightning.pytorch.strategies.deepspeed").setLevel(logging.WARNING)
    # DeepSpeed calls functions that torch has renamed.
    warnings.filterwarnings(
        "ignore", message=r".*`torch\.distributed\.\w+_tensor` is deprecated", category=FutureWarning
    )
