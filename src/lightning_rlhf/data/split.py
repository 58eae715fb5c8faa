"""Sets validation data apart, the same for every stage."""

import hashlib
from collections.abc import Sequence

from lightning_rlhf.data.formats import Record
from lightning_rlhf.errors import UserError


def split_by_prompt(records: Sequence[Record], val_fraction: float) -> tuple[list[Record], list[Record]]:
    """Splits into training and validation data by a hash of the prompt.

    A prompt falls on the same side in every stage, file and run, so that no stage is validated on prompts that
    another one trained on. Rows with the same prompt stay together; so the fraction is met only roughly.

    Args:
        records: Rows with any prompts.
        val_fraction: The expected share of prompts in the validation data, between 0 and 1.

    Returns:
        Training and validation data, both in the order of the rows.

    Raises:
        UserError: If the fraction is not between 0 and 1, or if either side would be empty.
    """
    if not 0 < val_fraction < 1:
        raise UserError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
    sides: tuple[list[Record], list[Record]] = ([], [])
    for record in records:
        sides[_position(record) < val_fraction].append(record)
    if not all(sides):
        train, val = map(len, sides)
        raise UserError(
            f"val_fraction={val_fraction} splits {len(records)} rows by prompt into {train} for training and {val} "
            "for validation, and neither may be empty; change val_fraction, add rows with other prompts, or give a "
            "validation file"
        )
    return sides


def _position(record: Record) -> float:
    """Where the prompt lies in [0, 1), evenly spread over all prompts."""
    text = "\0".join(f"{turn['role']}:{turn['content'].strip()}" for turn in record.prompt)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest()) / 2**48
