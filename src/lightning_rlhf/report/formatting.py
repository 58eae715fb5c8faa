"""Writes numbers for people: shares, decimals, intervals, durations and counts."""

import math
from collections.abc import Callable

from lightning_rlhf.report.intervals import Interval

Show = Callable[[float], str]
"""A function that writes a number."""


def percent(value: float) -> str:
    """Formats a share as a percentage, such as `83.2%`, or `NaN` if it is not finite."""
    return f"{100 * value:.1f}%".replace(".0%", "%") if math.isfinite(value) else "NaN"


def decimal(value: float) -> str:
    """Formats a number with three digits, such as `0.0312`, `2.5e−4` or `12,345`, or `NaN` if it is not finite."""
    if not math.isfinite(value):
        return "NaN"
    if abs(value) >= 1000:
        text = f"{value:,.0f}"
    elif 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        text = f"{float(mantissa):g}e{int(exponent)}"
    else:
        text = f"{value:.3g}"
    return text.replace("-", "−")


def span(interval: Interval, show: Show) -> str:
    """Formats an interval, such as `37.5% to 49.5%`."""
    return f"{show(interval.low)} to {show(interval.high)}"


def duration(seconds: float) -> str:
    """Formats a duration, such as `42 s`, `7 min 5 s` or `3 h 12 min`."""
    if seconds < 59.5:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def count(number: float) -> str:
    """Formats a number of weights or rows, such as `6.74 billion`, `1.93 million` or `2,400`."""
    for unit, factor in (("billion", 1e9), ("million", 1e6)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:,.0f}"
