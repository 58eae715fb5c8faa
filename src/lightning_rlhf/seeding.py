"""Random numbers that depend on their purpose only.

Each use draws from its own generator, keyed by the seed of the run and by the purpose. A resumed run, another number of
processes and another micro-batch size therefore see the same numbers, and no global state is touched.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

PROMPTS, SAMPLING, MINIBATCHES, ROWS, EVALUATION, PTX = range(6)
"""The purpose of a generator, which is its first key."""


class RandomKey(NamedTuple):
    """Names the random numbers of one response. They depend on this key, and not on the process or batch that draws."""

    seed: int
    """Seed of the run; not negative."""
    stream: tuple[int, ...]
    """The purpose of the numbers, followed by, for instance, the iteration; not negative."""
    row: int
    """Row of the stream. For sample s of prompt p of an iteration it is p * (samples of each prompt) + s."""

    def as_seed(self) -> int:
        """A seed of 63 bits for an engine that has its own generator. Different keys have different seeds."""
        return derived_seed(self.seed, *self.stream, self.row)


def derived_seed(seed: int, *keys: int) -> int:
    """A seed that is a function of its arguments.

    It has 63 bits, since `torch.Generator.manual_seed` takes signed numbers.

    Args:
        seed: Seed of the run; not negative.
        *keys: The purpose, followed by, for instance, the iteration; not negative.
    """
    return int(np.random.SeedSequence(seed, spawn_key=keys).generate_state(1, np.uint64)[0]) >> 1


def generator(seed: int, *keys: int) -> torch.Generator:
    """A CPU generator whose state is a function of the arguments, see `derived_seed`."""
    return torch.Generator().manual_seed(derived_seed(seed, *keys))


def permutation(length: int, seed: int, *keys: int) -> list[int]:
    """A random order of `range(length)` that is a function of the arguments."""
    return torch.randperm(length, generator=generator(seed, *keys)).tolist()


def endless(length: int, first: int, count: int, seed: int, *keys: int) -> list[int]:
    """Takes `count` indices, from number `first` on, of endless passes over `range(length)`, each in a new order."""
    chosen = []
    for number in range(first, first + count):
        epoch, place = divmod(number, length)
        chosen.append(int(_order(length, seed, *keys, epoch)[place]))
    return chosen


# Prompts and mixed-in texts are asked for in turn, a few at a time, and a minibatch may extend over two passes.
@lru_cache(maxsize=4)
def _order(length: int, seed: int, *keys: int) -> np.ndarray:
    return np.asarray(permutation(length, seed, *keys))


def uniforms(shape: tuple[int, int], seed: int, *keys: int) -> torch.Tensor:
    """Random numbers in (0, 1] of the given shape that are a function of the arguments.

    They are in fp64, on a grid of 2⁻⁵³. On the grid of fp32, 2⁻²⁴, some tokens of a large vocabulary could never be
    drawn.
    """
    return 1 - torch.rand(shape, generator=generator(seed, *keys), dtype=torch.float64)


def keyed_uniforms(keys: Sequence[RandomKey], width: int) -> torch.Tensor:
    """The random numbers of each key: its row of the `uniforms` of its stream, which is drawn once for all its keys.

    Returns:
        (B, width) for B keys.
    """
    numbers = torch.empty(len(keys), width, dtype=torch.float64)
    places = defaultdict(list)
    for place, key in enumerate(keys):
        places[key.seed, key.stream].append(place)
    for (seed, stream), own in places.items():
        rows = [keys[place].row for place in own]
        # The numbers of a row do not depend on the number of rows after it.
        numbers[own] = uniforms((max(rows) + 1, width), seed, *stream)[rows]
    return numbers
