"""Random numbers that depend on what they are for, and on nothing else.

Each use draws from a generator of its own, keyed by the run's seed and by what is drawn: so a resumed run, another
number of processes or another micro-batch size sees the same numbers, and no global state is touched.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

PROMPTS, SAMPLING, MINIBATCHES, ROWS, EVALUATION, PTX = range(6)
"""What a generator is for: the first key."""


class RandomKey(NamedTuple):
    """Names the random numbers of one response: they depend on the key, and not on who draws them or in what batch."""

    seed: int
    """Of the run; not negative."""
    stream: tuple[int, ...]
    """What the numbers are for, then for instance the iteration; not negative."""
    row: int
    """Which row of the stream: for sample s of prompt p of an iteration, p * (samples of each prompt) + s."""

    def as_seed(self) -> int:
        """A seed of 63 bits for an engine that draws by itself: other keys have other seeds."""
        return derived_seed(self.seed, *self.stream, self.row)


def derived_seed(seed: int, *keys: int) -> int:
    """A number of 63 bits, since `torch.Generator.manual_seed` takes signed ones, that is a function of its arguments.

    Args:
        seed: Of the run; not negative.
        *keys: What it is for, then for instance the iteration; not negative.
    """
    return int(np.random.SeedSequence(seed, spawn_key=keys).generate_state(1, np.uint64)[0]) >> 1


def generator(seed: int, *keys: int) -> torch.Generator:
    """A CPU generator that is a function of its arguments, see `derived_seed`."""
    return torch.Generator().manual_seed(derived_seed(seed, *keys))


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


def keyed_uniforms(keys: Sequence[RandomKey], width: int) -> torch.Tensor:
    """The random numbers of each key: its row of the `uniforms` of its stream, which are drawn once for all keys.

    Returns:
        (B, width) for B keys.
    """
    numbers = torch.empty(len(keys), width, dtype=torch.float64)
    places = defaultdict(list)
    for place, key in enumerate(keys):
        places[key.seed, key.stream].append(place)
    for (seed, stream), own in places.items():
        rows = [keys[place].row for place in own]
        # Numbers do not depend on how many rows stand below them.
        numbers[own] = uniforms((max(rows) + 1, width), seed, *stream)[rows]
    return numbers
