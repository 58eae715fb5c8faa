"""The class of alarms, and the registry of all alarms; a decorated function adds one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan

NUM_LATEST = 200
"""The number of latest values of each name that are kept."""
History = Mapping[str, list[float]]
"""The values of each watched name in the order of time: the first ten, and the latest."""
Rule = Callable[[History, float, int], str | None]
"""Takes the history, the threshold and the window; returns a problem, or None if there is none."""


@dataclass(frozen=True)
class Alarm:
    """A rule with its default settings, its meaning and its remedy."""

    rule: Rule
    reads: tuple[str, ...]
    """The names that the rule reads."""
    threshold: float
    """In the unit that the docstring of the rule states."""
    window: int
    """The number of consecutive values that must look wrong."""
    meaning: str
    remedy: str

    def knows(self, history: History) -> bool:
        """Whether the history contains all names that the rule reads; some runs, for instance, have no critic."""
        return all(name in history for name in self.reads)

    def evidence(self, history: History) -> str | None:
        """Returns the rule's description of a problem; None if there is none, or if there are too few values."""
        if any(len(history.get(name, ())) < self.window for name in self.reads):
            return None
        return self.rule(history, self.threshold, self.window)


ALARMS: dict[str, Alarm] = {}


def alarm(
    reads: tuple[str, ...], *, threshold: float, window: int, meaning: str, remedy: str
) -> Callable[[Rule], Rule]:
    """Returns a decorator that registers a rule as an alarm under the name of the rule."""

    def register(rule: Rule) -> Rule:
        ALARMS[rule.__name__] = Alarm(rule, reads, threshold, window, meaning, remedy)
        return rule

    return register


def alarm_problems(changes: Mapping[str, object], stop_on: Sequence[str]) -> Iterator[str]:
    """Yields a message for each unknown name and impossible value in the settings of alarms."""
    for name in [*changes, *stop_on]:
        if name not in ALARMS:
            yield f"health: there is no alarm {name!r}; there are {', '.join(sorted(ALARMS))}"
    for name, settings in changes.items():
        if not isinstance(settings, Mapping) or settings.keys() - {"threshold", "window"}:
            yield f"health: alarms.{name}={settings}: an alarm has a threshold and a window, and nothing else"
            continue
        threshold, window = settings.get("threshold", 0), settings.get("window", 1)
        if not isinstance(threshold, int | float) or isnan(threshold):
            yield f"health: alarms.{name}.threshold={threshold} must be a number"
        if not isinstance(window, int) or not 1 <= window <= NUM_LATEST:
            yield f"health: alarms.{name}.window={window} must be a whole number from 1 to {NUM_LATEST}"
