"""What a search may choose: the overrides of a command line as distributions of Optuna."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

from lightning_rlhf.assembly.sweeper import SweepRefused

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Space:
    """The overrides of all runs, in their order; a run gets its values of those that have a distribution."""

    fixed: Mapping[str, str]
    """The value of each override that is the same in all runs, and an empty text of those that are searched."""
    distributions: Mapping[str, "BaseDistribution"]

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """The overrides of a run.

        Args:
            params: The values that are searched.
        """
        return [f"{key}={params.get(key, value)}" for key, value in self.fixed.items()]

    def chosen(self, params: Mapping[str, Any]) -> list[str]:
        """The overrides that a run alone has."""
        return [f"{key}={params[key]}" for key in self.distributions]


def space_of(overrides: Sequence[Override]) -> Space:
    """The space of a search.

    `interval(a,b)` is a uniform distribution, and `tag(log,interval(a,b))` one of the logarithm; both are whole numbers
    inside `int(...)`. `range(a,b,step)` has equal steps, and `choice(a,b)` or `a,b` has no order.

    Args:
        overrides: The overrides of the command line.

    Raises:
        SweepRefused: If nothing is searched, or an interval is not possible.
    """
    fixed: dict[str, str] = {}
    distributions: dict[str, BaseDistribution] = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_sweep_override():
            fixed[key] = ""
            distributions[key] = _distribution(override)
        # The runs do not depend on their number, so a search that is started again may have more of them.
        elif key != "search.trials":
            fixed[key] = override.get_value_element_as_str()
    if not distributions:
        raise SweepRefused(
            "search=optuna: no setting is searched; give at least one as an interval or a choice, such as "
            "'ppo.module.kl_coef=tag(log,interval(0.01,0.5))'"
        )
    return Space(fixed, distributions)


def _distribution(override: Override) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        low, high, log = sweep.start, sweep.end, "log" in sweep.tags
        if low is None or high is None or not low < high or (log and low <= 0):
            raise SweepRefused(
                f"{override.input_line}: an interval goes from a smaller to a larger number, and a logarithmic one "
                "begins above 0"
            )
        whole = isinstance(low, int) and isinstance(high, int) and _is_cast_to_int(override)
        return IntDistribution(int(low), int(high), log=log) if whole else FloatDistribution(low, high, log=log)
    if isinstance(sweep, RangeSweep):
        values = list(sweep.range())
        step = values[1] - values[0] if len(values) > 1 else 1
        if all(isinstance(value, int) for value in values):
            return IntDistribution(int(values[0]), int(values[-1]), step=int(step))
        return FloatDistribution(float(values[0]), float(values[-1]), step=float(step))
    assert isinstance(sweep, ChoiceSweep)
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def _is_cast_to_int(override: Override) -> bool:
    return "int(" in str(override.input_line)
