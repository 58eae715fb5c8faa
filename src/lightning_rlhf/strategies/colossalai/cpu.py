"""Replaces the parts of ColossalAI 0.5.0 that keep its ZeRO optimizer from running on a CPU; GPUs are unaffected.

The `CpuAccelerator` of ColossalAI raises an error where a GPU would wait for a stream or free memory, and the ZeRO
optimizer asserts that there is a GPU (zero/low_level/low_level_optim.py, `_sanity_checks`). Nothing else in ZeRO 1 and
2 needs a GPU.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache

import torch

from lightning_rlhf.errors import UserError


def choose_accelerator(device: torch.device, stage: int) -> None:
    """Tells ColossalAI which kind of device this process computes on.

    Raises:
        UserError: If the device is a CPU and the stage is Gemini's.
    """
    from colossalai.accelerator import set_accelerator

    if device.type != "cpu":
        set_accelerator(device.type)
        return
    if stage == 3:
        raise UserError(
            "ColossalAIStrategy: stage=3 (strategy=colossalai_gemini…) needs a GPU: Gemini moves weights between it "
            "and the CPU's memory, and has no mode without a GPU; set trainer=gpu, or stage 1 or 2 (colossalai_zero2)"
        )
    set_accelerator(_accelerator_class()())


@contextmanager
def allowed_on(device: torch.device) -> Iterator[None]:
    """Lets a ZeRO optimizer be built on the CPU; changes nothing on any other device."""
    from colossalai.zero import LowLevelZeroOptimizer

    if device.type != "cpu":
        yield
        return
    check = LowLevelZeroOptimizer._sanity_checks
    LowLevelZeroOptimizer._sanity_checks = lambda optimizer: None
    try:
        yield
    finally:
        LowLevelZeroOptimizer._sanity_checks = check


@cache
def _accelerator_class() -> type:
    from colossalai.accelerator import CpuAccelerator

    class SynchronousCpu(CpuAccelerator):
        """A CPU, which finishes every operation before the call returns, so that there is nothing to wait for."""

        def synchronize(self, device: object = None) -> None:
            """Does nothing."""

        def device_count(self) -> int:
            """Returns 1, one device for each process; the loss scaler of fp16 asks for it."""
            return 1

        def Stream(self, *arguments: object, **settings: object) -> None:
            """Returns None: a CPU has no streams."""

        def current_stream(self, device: object = None) -> None:
            """Returns None: a CPU has no streams."""

        def stream(self, stream: object) -> AbstractContextManager[None]:
            """Returns an empty context: a CPU has no streams."""
            return nullcontext()

    return SynchronousCpu
