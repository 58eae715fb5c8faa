"""What counts as a score, wherever it comes from."""

from numbers import Real

_LARGEST = 3.4e38
"""About the largest number that fp32 holds; a larger one would become infinite there."""


def as_score(value: object) -> float | None:
    """Reads a score.

    Args:
        value: What a reward source gave for one response.

    Returns:
        The number; None if the value is no number (a text that spells one is none), is NaN, or has no finite
        counterpart in fp32.
    """
    if not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    # False for NaN too.
    return number if abs(number) <= _LARGEST else None
