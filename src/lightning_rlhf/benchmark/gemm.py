"""The speed of a device in the matrix product that suits it best, as the measure for everything else."""

import time

import torch

_SIZE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices; products of this size are bound by arithmetic and not by memory."""
_REPEATS = 5


def gemm_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Measures FLOP/s of a product of two square matrices: the best of several.

    Args:
        device: The device.
        dtype: The type of the computation.
    """
    size = _SIZE.get(device.type, _SIZE["cpu"])
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(_REPEATS + 1):
        wait(device)
        start = time.perf_counter()
        torch.mm(left, right)
        wait(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def wait(device: torch.device) -> None:
    """Waits until a device has done everything that it was given; a CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
