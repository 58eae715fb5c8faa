"""Random numbers that depend on what they are for, and on nothing else.

Each use draws from a generator of its own, keyed by the run's seed and by what is drawn: so a resumed run, another
number of processes or another micro-batch size sees the same numbers, and no global state is touched.
"""

from functools import lru_cache

import numpy as np
import torch

PROMPTS, SAMPLING, MINIBATCHES, ROWS, EVALUATION, PTX = range(6)
"""What a generator is for: the first key."""


def generator(seed: int, *keys: int) -> torch.Generator:
    """A CPU generator that is a function of its arguments.

    Args:
        seed: Of the run; not negative.
        *keys: What the numbers are for, then for instance the iteration; not negative.
    """
    state = np.random.SeedSequence(seed, spawn_key=keys).generate_state(1, np.uint64)[0]
    # manual_seed takes a signed 64-bit number.
    return torch.Generator().manual_seed(int(state) >> 1)


def permutation(length: int, seed: int, *keys: int) -> list[int]:
    """A random order of `range(length)` that is a function of its arguments."""
    return torch.randperm(length, generator=generator(seed, *keys)).tolist()


def endless(length: int, first: int, count: int, seed: int, *keys: int) -> list[int]:
    """`count` places in `range(length)` from number `first` on of endless passes, each in fresh order."""
    chosen = []
    for number in range(first, first + count):
        epoch, place = divmod(number, length)
        chosen.append(int(_order(length, seed, *keys, epoch)[place]))
    return chosen


# Callers ask for a few places at a time, and a minibatch may lie in two passes.
@lru_cache(maxsize=2)
def _order(length: int, seed: int, *keys: int) -> np.ndarray:
    return np.asarray(permutation(length, seed, *keys))


def uniforms(shape: tuple[int, int], seed: int, *keys: int) -> torch.Tensor:
    """Random numbers in (0, 1] of the given shape that are a function of its arguments.

    They are in fp64, on a grid of 2⁻⁵³. On fp32's grid of 2⁻²⁴, tokens of a large vocabulary could never be drawn.
    """
    return 1 - torch.rand(shape, generator=generator(seed, *keys), dtype=torch.float64)
