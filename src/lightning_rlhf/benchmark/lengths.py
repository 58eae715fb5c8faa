"""Random lengths of prompts and responses. This file needs NumPy alone, so that other programs get the same lengths."""

import numpy as np


def prompt_lengths(count: int, shortest: int, longest: int, seed: int) -> list[int]:
    """Draws lengths that are uniform between two bounds, both included.

    Args:
        count: Number of prompts.
        shortest: Least number of tokens.
        longest: Largest number of tokens.
        seed: Seed of the lengths.
    """
    return np.random.default_rng([seed, 0]).integers(shortest, longest + 1, count).tolist()


def response_lengths(count: int, mean: int, most: int, seed: int) -> list[int]:
    """Draws geometric lengths, as a model has them that ends at each token with the same probability.

    The programs that cannot be given such a model are given these lengths.

    Args:
        count: Number of responses.
        mean: Mean of the distribution before it is cut off, in tokens.
        most: Length limit, in tokens.
        seed: Seed of the lengths.
    """
    return np.minimum(np.random.default_rng([seed, 1]).geometric(1 / mean, count), most).tolist()


def random_ids(lengths: list[int], vocabulary: int, excluded: tuple[int, ...], seed: int) -> list[list[int]]:
    """Draws token ids, each of them with the same probability.

    Args:
        lengths: Number of tokens of each row.
        vocabulary: Number of tokens that the model knows.
        excluded: Ids that are not drawn, such as EOS.
        seed: Seed of the ids.
    """
    allowed = np.setdiff1d(np.arange(vocabulary), excluded)
    generator = np.random.default_rng([seed, 2])
    return [generator.choice(allowed, length).tolist() for length in lengths]
