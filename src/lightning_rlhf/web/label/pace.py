"""How fast a person chooses."""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

from lightning_rlhf.web.label.choices import Choice

# The rate is that of the last choices, and whoever does nothing for longer than this has taken a break.
_LAST = 20
_BREAK = 300.0


def choices_a_minute(choices: Sequence[Choice]) -> float | None:
    """Computes the rate of a person; None if it is not known yet.

    Args:
        choices: The choices of the person, oldest first.
    """
    times = [datetime.fromisoformat(choice.time).timestamp() for choice in choices[-_LAST - 1 :]]
    gaps = [later - earlier for earlier, later in pairwise(times) if 0 < later - earlier <= _BREAK]
    return 60 * len(gaps) / sum(gaps) if gaps else None
