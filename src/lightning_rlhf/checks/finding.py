"""The result of a check."""

from typing import Literal, NamedTuple

import torch


class Finding(NamedTuple):
    """The result of one check."""

    check: str
    """Name of the check."""
    status: Literal["ok", "warning", "error"]
    found: str
    """What the check found, with numbers."""
    remedy: str = ""
    """What the user should do; empty if the status is ok."""


def judged(check: str, holds: bool, found: str, remedy: str, *, severity: Literal["warning", "error"]) -> Finding:
    """A finding that is ok if a condition holds.

    Args:
        check: Name of the check.
        holds: The condition.
        found: What the check found.
        remedy: What the user should do if the condition does not hold.
        severity: The status if the condition does not hold.
    """
    return Finding(check, "ok", found) if holds else Finding(check, severity, found, remedy)


def tolerance(dtype: torch.dtype, precision: str) -> float:
    """The largest difference between two computations of the same log-prob, or of the same score relative to its size.

    Half precision keeps 8 to 11 bits, and other batch shapes use other kernels.

    Args:
        dtype: The dtype of the weights.
        precision: The precision of the trainer, such as 32-true or bf16-mixed.
    """
    return 1e-3 if dtype == torch.float32 and precision.startswith("32") else 5e-2
