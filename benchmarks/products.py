"""Measures the products, activations and optimizer steps that docs/performance.md compares, on this machine.

    python benchmarks/products.py

The variants of a row take turns, on one thread, and the smallest CPU time of each is printed in milliseconds, so other
programs disturb little. MKL_ENABLE_INSTRUCTIONS=AVX2 makes MKL choose the kernels that it has for processors of other
makers than Intel. The rules of `models/fast_layers.py` follow from the tables.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear
from transformers.activations import ACT2FN

from lightning_rlhf.models.fast_layers import by_onednn, processor, turned
from lightning_rlhf.modules.adam import fuse

SHAPES = [(256, 1024), (256, 8192), (576, 1536), (768, 2304), (768, 3072), (3072, 768), (576, 49152), (768, 50257)]
FEW, MANY = (4, 8, 16, 32), 512


def fastest(works: dict[str, Callable[[], object]], seconds: float = 0.3) -> dict[str, float]:
    """The smallest CPU time of each variant, in milliseconds."""
    least = dict.fromkeys(works, float("inf"))
    start = time.process_time()
    while time.process_time() - start < seconds:
        for name, work in works.items():
            begun = time.process_time()
            work()
            least[name] = min(least[name], 1e3 * (time.process_time() - begun))
    return least


def table(head: str, rows: dict[str, dict[str, float]]) -> None:
    """Prints a table in Markdown."""
    names = list(next(iter(rows.values())))
    print(f"| {head} | " + " | ".join(names) + " |\n|" + " --- |" * (len(names) + 1))
    for row, cells in rows.items():
        print(f"| {row} | " + " | ".join(f"{cell:.3g}" for cell in cells.values()) + " |")
    print()


@torch.no_grad()
def of_sampling(inner: int, out: int, rows: int) -> dict[str, float]:
    """A product of few rows."""
    x, weight = torch.randn(rows, inner), torch.randn(out, inner)
    return fastest(
        {
            "`linear`": lambda: linear(x, weight),
            "turned": lambda: turned(x, weight),
            "oneDNN": lambda: by_onednn(x, weight),
        }
    )


@torch.no_grad()
def of_an_update(inner: int, out: int) -> dict[str, float]:
    """The products of an update, forwards and backwards: outputs, gradients of the inputs, gradients of the weights."""
    x, weight, grad = torch.randn(MANY, inner), torch.randn(out, inner), torch.randn(MANY, out)
    return fastest(
        {
            "outputs": lambda: linear(x, weight),
            "oneDNN": lambda: by_onednn(x, weight),
            "gradients of inputs": lambda: grad @ weight,
            "oneDNN ": lambda: by_onednn(grad, weight.t()),
            "gradients of weights": lambda: grad.t() @ x,
            "oneDNN  ": lambda: by_onednn(grad.t(), x.t()),
        }
    )


def of_activation(name: str) -> dict[str, float]:
    """An activation and its gradient."""
    x = torch.randn(512, 3072, requires_grad=True)

    def work(function: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(function(x).sum(), x)

    return fastest({"formula": work(ACT2FN[name]), "kernel": work(lambda x: gelu(x, approximate="tanh"))})


def of_adam() -> dict[str, float]:
    """A step of AdamW on the weights of a block of GPT-2 small."""
    steps: dict[str, Callable[[], object]] = {}
    for name in ("by default", "in one pass"):
        weights = [nn.Parameter(torch.randn(768, width)) for width in (2304, 768, 3072, 3072)]
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer = torch.optim.AdamW(weights)
        if name == "in one pass":
            fuse(optimizer)
        steps[name] = optimizer.step
    return fastest(steps)


def main() -> None:
    """Prints the tables."""
    torch.set_num_threads(1)
    print(f"{processor()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}\n")
    few = {f"{rows} × {i} × {o}": of_sampling(i, o, rows) for i, o in SHAPES for rows in FEW}
    table("rows × in × out", few)
    table(f"{MANY} rows × in × out", {f"{i} × {o}": of_an_update(i, o) for i, o in SHAPES if i * o < 2**22})
    table("activation", {name: of_activation(name) for name in ("gelu_new", "gelu_fast")})
    table("step", {"AdamW": of_adam()})


if __name__ == "__main__":
    main()
