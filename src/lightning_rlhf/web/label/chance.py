"""Chance that depends on its purpose alone, so that a server which is started again decides as before."""

import hashlib
import json


def chance(*words: str | int) -> float:
    """Draws a number from 0 to 1 that is a function of the arguments.

    Args:
        *words: The seed, the purpose, and whatever the decision is about.
    """
    digest = hashlib.blake2b(json.dumps(words).encode(), digest_size=8).digest()
    # A float holds 53 bits.
    return (int.from_bytes(digest) >> 11) / 2**53


def shuffled(count: int, *words: str | int) -> tuple[int, ...]:
    """Puts `range(count)` into a random order that is a function of the other arguments."""
    return tuple(sorted(range(count), key=lambda number: chance(*words, number)))
