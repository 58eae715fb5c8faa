"""Splits off validation data in the same way for every stage."""

import hashlib
from collections.abc import Sequence

import numpy as np

from lightning_rlhf.data.messages import Message
from lightning_rlhf.errors import UserError


def split_by_position(positions: np.ndarray, val_fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Splits rows into training and validation data by the position of their prompts.

    A prompt is on the same side in every stage, file and run, so no stage is validated on prompts that another stage
    has trained on. Rows with the same prompt stay together, so the fraction is met only approximately.

    Args:
        positions: (rows,) `position` of the prompt of each row.
        val_fraction: Expected share of prompts in the validation data, between 0 and 1.

    Returns:
        Indices of the training rows and of the validation rows, both in order.

    Raises:
        UserError: If the fraction is not between 0 and 1, or if one side would be empty.
    """
    if not 0 < val_fraction < 1:
        raise UserError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
    held_out = positions < val_fraction
    train, val = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    if not (len(train) and len(val)):
        raise UserError(
            f"val_fraction={val_fraction} splits {len(positions)} rows by prompt into {len(train)} for training and "
            f"{len(val)} for validation, and neither may be empty; change val_fraction, add rows with other prompts, "
            "or give a validation file"
        )
    return train, val


def position(prompt: Sequence[Message]) -> float:
    """Hashes the text of a prompt to a number in [0, 1); the numbers of all prompts are uniformly distributed."""
    text = "\0".join(f"{turn['role']}:{turn['content'].strip()}" for turn in prompt)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest()) / 2**48
