"""Errors about what DeepSpeed cannot do, raised before models are built."""

import inspect
import logging
import warnings
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.strategies import DeepSpeedStrategy

from lightning_rlhf.errors import UserError, raise_problems


def check_settings(
    stage: int, offload_parameters: bool, offload_device: str, nvme_path: str | None, others: Mapping[str, object]
) -> None:
    """Checks the settings of the strategy.

    Raises:
        UserError: If a setting is unknown or impossible; the message lists all of them.
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


def check_config(config: Mapping[str, Any]) -> None:
    """Checks the configuration of DeepSpeed.

    Raises:
        UserError: If it has no stage of ZeRO, or clips gradients by itself.
    """
    if config.get("zero_optimization", {}).get("stage") not in (1, 2, 3):
        raise UserError("DeepSpeedStrategy: config has no zero_optimization.stage of 1, 2 or 3")
    if config.get("gradient_clipping"):
        raise UserError("DeepSpeedStrategy: config.gradient_clipping: set trainer.gradient_clip_val instead")


def check_cpu(precision: str) -> None:
    """Checks that DeepSpeed can run on the CPU with a precision.

    Raises:
        UserError: If the precision is impossible, or DeepSpeed uses another device.
    """
    from deepspeed.accelerator import get_accelerator

    device = get_accelerator().device_name()
    if precision.startswith("16"):
        raise UserError(f"trainer.precision={precision}: DeepSpeed has no fp16 on the CPU; set bf16-mixed or 32-true")
    if device != "cpu":
        raise UserError(
            f"trainer.accelerator=cpu, but DeepSpeed has chosen {device}, which this machine has: set the "
            "environment variable DS_ACCELERATOR=cpu"
        )


def silence_libraries() -> None:
    """Silences messages that appear at each start or step and need no action by the user."""
    logging.getLogger("lightning.pytorch.strategies.deepspeed").setLevel(logging.WARNING)
    # DeepSpeed calls functions that torch has renamed.
    warnings.filterwarnings(
        "ignore", message=r".*`torch\.distributed\.\w+_tensor` is deprecated", category=FutureWarning
    )
