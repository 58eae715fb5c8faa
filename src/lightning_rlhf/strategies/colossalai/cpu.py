"""ColossalAI 0.5.0 on a CPU, for which its ZeRO optimizer was not made: what is replaced, and only there.

Its `CpuAccelerator` raises an error where a GPU would wait for a stream or free memory, and its ZeRO optimizer asserts
that there is a GPU (zero/low_level/low_level_optim.py, `_sanity_checks`); nothing else in ZeRO 1 and 2 needs one.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache

import torch

from lightning_rlhf.errors import UserError


def choose_accelerator(device: torch.device, stage: int) -> None:
    """Tells ColossalAI on what device this process computes.

    Raises:
        UserError: If that is a CPU and Gemini is wanted.
    """
    from colossalai.accelerator import set_accelerator

    if device.type != "cpu":
        set_accelerator(device.type)
        return
    if stage == 3:
        raise UserError(
            "ColossalAIStrategy: stage=3 (strategy=colossalai_gemini…) needs a GPU: Gemini moves weights between it "
            "and the CPU's memory, and has no mode without; take trainer=gpu, or stage 1 or 2 (colossalai_zero2)"
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
        """A CPU on which everything is done as soon as it is asked for: there is nothing to wait for."""

        def synchronize(self, device: object = None) -> None:
            """Waits for nothing."""

        def device_count(self) -> int:
            """There is one for each process; asked for by the loss scaler of fp16."""
            return 1

        def Stream(self, *arguments: object, **settings: object) -> None:
            """There is one order of work."""

        def current_stream(self, device: object = None) -> None:
            """There is one order of work."""

        def stream(self, stream: object) -> AbstractContextManager[None]:
            """There is one order of work."""
            return nullcontext()

    return SynchronousCpu
