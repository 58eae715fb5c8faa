"""The plots of a run card: which metrics share a picture, and what a healthy run looks like."""

from dataclasses import dataclass, field
from typing import Literal

Ink = Literal["accent", "contrast", "muted"]
# Each colour has one meaning on the whole page: training, held-out prompts, or anything secondary.
TRAINING: Ink = "accent"
HELD_OUT: Ink = "contrast"
SECOND: Ink = "muted"

Place = Literal["stage", "health", "costs"]
"""The section of the page that a picture is in: that of its stage, next to the alarms, or next to the costs."""


@dataclass(frozen=True)
class Line:
    """One metric in a plot. `spread` names a metric that is drawn around the line as a band of plus and minus.

    `share` marks a share of held-out rows, around which its 95% interval is drawn.
    """

    column: str
    label: str
    ink: Ink
    dashed: bool = False
    spread: str | None = None
    share: bool = False


@dataclass(frozen=True)
class Plot:
    """One picture.

    `percent` shows shares as percentages, and `from_zero` starts the y axis at zero. `settles` gives the axis to the
    values after a steep beginning. Values below `rounding` are only errors of floating-point numbers. `against` names
    the metric of the x axis, if that is not training time. `levels` are final metrics that are drawn as horizontal
    lines, with their labels.
    """

    title: str
    unit: str
    lines: tuple[Line, ...]
    caption: str
    percent: bool = False
    from_zero: bool = False
    settles: bool = False
    rounding: float = 0.0
    against: str | None = None
    levels: tuple[tuple[str, str], ...] = ()
    place: Place = field(default="stage", kw_only=True)
