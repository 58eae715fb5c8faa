"""Runs stages under Gemini on a CPU, a mode that ColossalAI does not have.

    python tests/equivalence/gemini_on_cpu.py FOLDER NAME [override …]

The arguments are those of `worker.py`. The script replaces these parts of ColossalAI 0.5.0, in its own process only:

- the accelerator: it calls itself "cuda", but gives CPU tensors, and streams on which nothing waits;
- the kernel of CPUAdam, a C++ extension that is built with CUDA's headers: the same formula in Python replaces it;
- `Chunk` and `ChunkManager`, where they distinguish GPU and CPU by the device of a tensor. Every chunk then seems to
  rest in the memory of the CPU and is copied for each use, so the path of placement_policy=cpu runs, whichever is set;
- the measurement of GPU memory for placement_policy=auto: there always seem to be 8 GiB, all of them free.

The tests with this script therefore show that our strategy uses Gemini's sharded weights, gradients and optimizer
correctly. They show nothing about copies between two memories, about streams, or about kernels.
"""

import math
import sys
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from lightning_rlhf.strategies.colossalai import cpu as colossalai_cpu

GPU = SimpleNamespace(type="cuda")


class Stream:
    """A stream on which everything is done at once."""

    def wait_stream(self, *_: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass


class AdamInPython:
    """Computes what ColossalAI's kernel computes for weights in CPU memory."""

    def __init__(self, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, adamw: bool) -> None:
        assert adamw

    def step(
        self,
        step: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        bias_correction: bool,
        weight: Any,
        gradient: Any,
        mean: Any,
        square: Any,
        div_scale: float,
    ) -> None:
        assert bias_correction
        gradient = gradient.float() / (div_scale if div_scale > 0 else 1)
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        weight.mul_(1 - lr * weight_decay)
        denominator = (square.sqrt() / math.sqrt(1 - beta2**step)).add_(eps)
        weight.addcdiv_(mean, denominator, value=-lr / (1 - beta1**step))


class KernelInPython:
    name, priority = "cpu_adam_in_python", 100

    def is_available(self) -> bool:
        return True

    def assert_compatible(self) -> None:
        pass

    def load(self) -> Any:
        return SimpleNamespace(CPUAdamOptimizer=AdamInPython)


def choose_accelerator(device: torch.device, stage: int) -> None:
    """Replaces the strategy's own function, which refuses Gemini on a CPU; on other devices it only calls it."""
    if device.type != "cpu" or stage != 3:
        original(device, stage)
        return
    from colossalai.accelerator import set_accelerator
    from colossalai.kernel.kernel_loader import CPUAdamLoader

    class SeeminglyCuda(colossalai_cpu._accelerator_class()):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._name = "cuda"

        def Stream(self, *_: Any, **__: Any) -> Stream:
            return Stream()

        def current_stream(self, device: Any = None) -> Stream:
            return Stream()

        def stream(self, stream: Any) -> Any:
            return nullcontext()

    set_accelerator(SeeminglyCuda())
    CPUAdamLoader.REGISTRY = [KernelInPython]
    replace_in_chunks()
    replace_measurement()


@cache
def replace_in_chunks() -> None:
    from colossalai.zero.gemini.chunk.chunk import Chunk
    from colossalai.zero.gemini.chunk.manager import ChunkManager

    init, shard_move, access_chunk = Chunk.__init__, Chunk.shard_move, ChunkManager.access_chunk

    def seemingly_on_gpu(self: Any, *arguments: Any, **settings: Any) -> None:
        init(self, *arguments, **settings)
        if not settings.get("cpu_shard_init", False):
            self.shard_device = GPU

    def move(self: Any, device: Any, force_copy: bool = False, non_blocking: bool = False) -> None:
        if not self.optim_sync_flag:
            assert not self.is_gathered
            self._Chunk__paired_shard_move(non_blocking=non_blocking)
            self.optim_sync_flag = True
        elif Chunk.accessed and self.cuda_shard is None:
            self.cuda_shard = self.cpu_shard.clone()
            self.cpu_shard = None
        else:
            shard_move(self, device, force_copy, non_blocking)

    def access(self: Any, chunk: Any, async_access: bool = False) -> Any:
        # On a GPU, the target device of a move would show that the chunk is being accessed.
        Chunk.accessed = True
        try:
            return access_chunk(self, chunk, async_access)
        finally:
            Chunk.accessed = False

    Chunk.accessed = False
    Chunk.__init__, Chunk.shard_move, ChunkManager.access_chunk = seemingly_on_gpu, move, access


def replace_measurement() -> None:
    from colossalai.legacy.utils import memory
    from colossalai.zero.gemini.memory_tracer import memstats_collector

    memory.colo_device_memory_capacity = lambda device: 8 * 2**30
    memstats_collector.SyncCudaMemoryMonitor = lambda: SimpleNamespace(start=lambda: None, finish=lambda: 0)


original = colossalai_cpu.choose_accelerator

if __name__ == "__main__":
    from worker import run

    colossalai_cpu.choose_accelerator = choose_accelerator
    run(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
