"""Measures the products, activations and optimizer steps that docs/performance.md compares, on this machine.

    OMP_NUM_THREADS=1 python benchmarks/products.py

The variants of a row take turns, and the smallest time of each is printed in milliseconds, so other programs disturb
little. The products of few rows go through many matrices, as in a model, so that none stays in the cache of a core.
MKL_ENABLE_INSTRUCTIONS=AVX2 makes MKL choose the kernels that it has for processors of other
makers than Intel. The rules of `models/fast_layers.py` follow from the tables.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear
from transformers.activations import ACT2FN

from lightning_rlhf.models.arranged import forward_of
from lightning_rlhf.models.fast_layers import by_onednn, processor, turned
from lightning_rlhf.modules.adam import fuse

SMALL = [(256, 768), (256, 1024), (1024, 256), (256, 8192), (576, 1536), (768, 2304), (768, 3072), (3072, 768)]
SHAPES = [*SMALL, (576, 49152), (768, 50257)]
FEW, MANY = (4, 8, 16, 32, 64), 512
APART = 2**25
"""Number of elements of the matrices through which products of few rows go."""


def fastest(works: dict[str, Callable[[], object]], seconds: float = 0.3) -> dict[str, float]:
    """The smallest time of each variant, in milliseconds."""
    least = dict.fromkeys(works, float("inf"))
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        for name, work in works.items():
            begun = time.perf_counter()
            work()
            least[name] = min(least[name], 1e3 * (time.perf_counter() - begun))
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
    """A product of few rows, as the mean of products with different matrices."""
    x = torch.randn(rows, inner)
    layers = [nn.Linear(inner, out, bias=False) for _ in range(max(1, APART // (inner * out)))]
    held = [forward_of(layer) for layer in layers]

    def through(multiply: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], object]:
        return lambda: [multiply(x, layer.weight) for layer in layers]

    works: dict[str, Callable[[], object]] = {
        "`linear`": through(linear),
        "turned": through(turned),
        "oneDNN": through(by_onednn),
        "arranged": lambda: [forward(x) for forward in held],
        "to arrange": lambda: [forward_of(layer) for layer in layers],
    }
    return {name: least / len(layers) for name, least in fastest(works, seconds=1).items()}


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


def weights_of(num_blocks: int) -> list[nn.Parameter]:
    """Weights of as many blocks of GPT-2 small, with gradients."""
    weights = [nn.Parameter(torch.randn(768, width)) for _ in range(num_blocks) for width in (2304, 768, 3072, 3072)]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    return weights


def of_adam() -> dict[str, float]:
    """A step of AdamW on 50 million weights."""
    default, fused = (torch.optim.AdamW(weights_of(7)) for _ in range(2))
    fuse(fused)
    return fastest({"by default": default.step, "in one pass": fused.step}, seconds=5)


def of_gradients() -> dict[str, float]:
    """Forward and backward pass of 21 million weights, whose gradients are made anew or added to zeros."""
    x = torch.randn(64, 768)

    def work(set_to_none: bool) -> Callable[[], object]:
        weights = weights_of(3)
        optimizer = torch.optim.SGD(weights)

        def step() -> None:
            optimizer.zero_grad(set_to_none=set_to_none)
            sum((x @ weight).sum() for weight in weights).backward()  # type: ignore[union-attr]

        return step

    return fastest({"made anew": work(True), "added to zeros": work(False)}, seconds=3)


def main() -> None:
    """Prints the tables."""
    about = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{processor()}, {torch.backends.cpu.get_cpu_capability()}, {about}\n")
    few = {f"{rows} × {i} × {o}": of_sampling(i, o, rows) for i, o in SHAPES for rows in FEW}
    table("rows × in × out", few)
    table(f"{MANY} rows × in × out", {f"{i} × {o}": of_an_update(i, o) for i, o in SMALL})
    table("activation", {name: of_activation(name) for name in ("gelu_new", "gelu_fast")})
    table("step", {"AdamW, 50 million weights": of_adam()})
    table("gradients", {"21 million weights": of_gradients()})


if __name__ == "__main__":
    main()
