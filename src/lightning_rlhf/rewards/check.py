"""Checks whether a value is a score, for all sources of scores."""

from numbers import Real

_LARGEST = 3.4e38
"""Approximately the largest finite number in fp32; a larger number would become infinite."""


def as_score(value: object) -> float | None:
    """Converts a value into a score.

    Args:
        value: The value that a reward source returned for one response.

    Returns:
        The number. It is None if the value is not a number, is NaN, or is not finite in fp32; a text that spells a
        number is not a number.
    """
    if not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    # The comparison is False for NaN too.
    return number if abs(number) <= _LARGEST else None
