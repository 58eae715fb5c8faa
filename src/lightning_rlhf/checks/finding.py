"""What a check finds."""

from typing import Literal, NamedTuple

import torch


class Finding(NamedTuple):
    """The result of one check."""

    check: str
    """Its name."""
    status: Literal["ok", "warning", "error"]
    found: str
    """What was found, with numbers."""
    remedy: str = ""
    """What to do, unless all is well."""


def judged(check: str, holds: bool, found: str, remedy: str, *, severity: Literal["warning", "error"]) -> Finding:
    """A finding that is ok if something holds.

    Args:
        check: Its name.
        holds: Whether all is well.
        found: What was found.
        remedy: What to do if it does not hold.
        severity: What it is if it does not hold.
    """
    return Finding(check, "ok", found) if holds else Finding(check, severity, found, remedy)


def tolerance(dtype: torch.dtype, precision: str) -> float:
    """How far two ways to compute the same log-prob, or the same score by its size, may lie apart.

    Half precision keeps 8 to 11 bits, and other batch shapes use other kernels.

    Args:
        dtype: Of the weights.
        precision: Of the trainer, such as 32-true or bf16-mixed.
    """
    return 1e-3 if dtype == torch.float32 and precision.startswith("32") else 5e-2
