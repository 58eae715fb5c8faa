"""What an alarm is, and the register of them all: one decorated function adds one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

History = Mapping[str, list[float]]
"""For each watched name its values in the order of time: the first ten, and the latest."""
Rule = Callable[[History, float, int], str | None]
"""Takes the history, the threshold and the window; says in words what it sees, or None while all is well."""


@dataclass(frozen=True)
class Alarm:
    """A rule with its defaults, and words for people."""

    rule: Rule
    reads: tuple[str, ...]
    """Names that the rule reads."""
    threshold: float
    """In the unit that the rule's docstring says."""
    window: int
    """How many values in a row have to look wrong."""
    meaning: str
    remedy: str

    def knows(self, history: History) -> bool:
        """Whether all that the rule reads has been seen; a critic-less run, say, has no explained variance."""
        return all(name in history for name in self.reads)

    def evidence(self, history: History) -> str | None:
        """What the rule sees; None while all is well, or while too little has been seen."""
        if any(len(history.get(name, ())) < self.window for name in self.reads):
            return None
        return self.rule(history, self.threshold, self.window)


ALARMS: dict[str, Alarm] = {}


def alarm(
    reads: tuple[str, ...], *, threshold: float, window: int, meaning: str, remedy: str
) -> Callable[[Rule], Rule]:
    """Makes a rule an alarm of the rule's name."""

    def register(rule: Rule) -> Rule:
        ALARMS[rule.__name__] = Alarm(rule, reads, threshold, window, meaning, remedy)
        return rule

    return register
