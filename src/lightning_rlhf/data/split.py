"""Splits off validation data in the same way for every stage."""

import hashlib
from collections.abc import Sequence

import numpy as np

from lightning_rlhf.data.adapting import adapted
from lightning_rlhf.data.messages import Message
from lightning_rlhf.errors import UserError


def split_by_position(
    positions: np.ndarray, val_fraction: float, usable: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Splits rows into training and validation data by the position of their prompts.

    A prompt is on the same side in every stage, file and run, so no stage is validated on prompts that another stage
    has trained on. Rows with the same prompt stay together, so the fraction is met only approximately. If all prompts
    would be on one side, as is likely if there are few, the prompt whose position is next to the fraction changes
    sides, and a note says so.

    Args:
        positions: (rows,) `position` of the prompt of each row.
        val_fraction: Expected share of prompts in the validation data, between 0 and 1.
        usable: (rows,) bool, False for rows that are left out later, which do not count; None counts all rows.

    Returns:
        Indices of the training rows and of the validation rows, both in order.

    Raises:
        UserError: If the fraction is not between 0 and 1, or if all rows have the same prompt.
    """
    if not 0 < val_fraction < 1:
        raise UserError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
    prompts = np.unique(positions if usable is None or not usable.any() else positions[usable])
    if len(prompts) == 1:
        raise UserError(
            f"val_fraction={val_fraction}: {len(positions)} rows have one prompt that fits, which cannot be trained on "
            "and held out at once: add rows with other prompts, or give a validation file"
        )
    bound = min(max(val_fraction, np.nextafter(prompts[0], 1)), prompts[-1])
    if bound != val_fraction:
        side, other = ("none", "held out") if bound > val_fraction else ("all", "trained on")
        adapted(f"val_fraction={val_fraction} would hold out {side} of {len(prompts)} prompts, so one is {other}")
    held_out = positions < bound
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def position(prompt: Sequence[Message]) -> float:
    """Hashes the text of a prompt to a number in [0, 1); the numbers of all prompts are uniformly distributed."""
    text = "\0".join(f"{turn['role']}:{turn['content'].strip()}" for turn in prompt)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest()) / 2**48
