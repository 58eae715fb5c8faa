"""The numbers of a run card: the headline at the top, and a table of held-out metrics of each stage."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_rlhf.report.formatting import Show, decimal, percent, span
from lightning_rlhf.report.measures import OF_PAIRS, change, gold_names, interval
from lightning_rlhf.report.run import Run, Stage
from lightning_rlhf.report.settings import scorer


@dataclass(frozen=True)
class Number:
    """One labelled value."""

    label: str
    value: str
    note: str
    before: str | None = None
    """The value before training, if it was measured."""
    interval: str | None = None
    """The 95% confidence interval of the value, if it is known."""
    unchanged: bool = False
    """Whether chance alone would explain the distance from the value before training."""
    noise: str | None = None
    """The largest change that chance alone would explain, if it is known."""


METRICS: dict[str, tuple[str, Show, str]] = {
    "gold_rate": ("Gold rate", percent, "held-out answers that fully meet the gold metric"),
    "gold_win_rate": (
        "Win rate",
        percent,
        "prompts where the gold metric prefers the answer to that of the start model; ties count half",
    ),
    "gold_mean": ("Gold mean", decimal, "mean of the gold metric over held-out answers"),
    "score": ("Score", decimal, "mean over held-out answers"),
    "kl": ("KL", decimal, "nats per response away from the start model"),
    "reward_accuracy": ("Reward accuracy", percent, "held-out pairs where the preferred answer scores higher"),
    "longer_wins_accuracy": ("“Longer wins”", percent, "accuracy of always preferring the longer answer"),
    "shorter_wins_accuracy": ("“Shorter wins”", percent, "accuracy of always preferring the shorter answer"),
    "perplexity": ("Perplexity", decimal, "on held-out answers; 1 is perfect"),
    "loss": ("Loss", decimal, "held-out"),
    "absolute_error": ("Absolute error", decimal, "mean distance from the scores of held-out answers"),
    "response_length": ("Response length", decimal, "tokens, mean over held-out answers"),
    "eos_rate": ("Ends by itself", percent, "held-out answers with an end token before the length limit"),
}
# Before training, these metrics have the same value for every model or every data set, so it is not shown.
_NO_BEFORE = ("kl", "gold_win_rate", *OF_PAIRS)


def final(stage: Stage, name: str) -> float | None:
    """A held-out metric from the result or, if the run has no result yet, the value that was logged last."""
    logged = stage.series.get(f"val/{name}")
    return stage.result.metrics.get(name, logged.last if logged else None)


def before(stage: Stage, name: str) -> float | None:
    """A held-out metric before training; None if it was not measured, or not measured again since."""
    logged = stage.series.get(f"val/{name}")
    if logged is None or logged.x[0] != 0:
        return None
    has_after = name in stage.result.metrics or len(logged.x) > 1
    return float(logged.y[0]) if has_after else None


def described(stage: Stage, name: str) -> tuple[str, Show, str]:
    """The label of a metric, the function that writes it, and a note on its meaning."""
    of_gold = METRICS["gold_mean"][2] if name in gold_names(stage) else ""
    label, show, note = METRICS.get(name, (name.replace("_", " ").capitalize(), decimal, of_gold))
    if name == "score" and (source := scorer(stage)):
        note = f"{note}, from the {source}"
    return label, show, note


def unchanged(stage: Stage, name: str) -> bool:
    """Whether chance alone explains how a held-out metric has changed, or the change does not show in its digits."""
    start, value, found = before(stage, name), final(stage, name), change(stage, name)
    if name in OF_PAIRS or value is None or not math.isfinite(value):
        return False
    if name == "kl" and value <= 0:
        # A KL is positive, so only the noise of its estimate can be negative.
        return True
    _, show, _ = described(stage, name)
    same = start is not None and show(start) == show(value)
    return same or (found is not None and not found.significant)


def stage_numbers(stage: Stage, names: Sequence[str] | None = None) -> list[Number]:
    """The held-out metrics of a stage that are known, in the order of `names`; None stands for all metrics."""
    names = [*METRICS, *gold_names(stage)] if names is None else names
    return [number for name in names if (number := _number(stage, name)) is not None]


def _number(stage: Stage, name: str) -> Number | None:
    value = final(stage, name)
    if value is None:
        return None
    label, show, note = described(stage, name)
    start = None if name in _NO_BEFORE else before(stage, name)
    found, exact, same = change(stage, name), interval(stage, name, value), unchanged(stage, name)
    return Number(
        label=label,
        value="≈ 0" if name == "kl" and same else show(value),
        note=note,
        before=None if start is None else show(start),
        interval=None if exact is None else span(exact, show),
        unchanged=same,
        noise=show(found.noise) if found is not None and found.noise else None,
    )


def headline(run: Run) -> list[Number]:
    """The numbers at the top of the page, which show how the run went; usually at most four."""
    if len(run.stages) == 1:
        (stage,) = run.stages
        return stage_numbers(stage, stage.record.headline)
    wanted = run.stages[-1].record.headline_of_pipeline if run.stages else ()
    found = {metric: [stage for stage in run.stages if final(stage, metric) is not None] for metric in wanted}
    numbers = [number for metric, has in found.items() if has for number in stage_numbers(has[-1], (metric,))]
    return numbers or [number for stage in run.stages for number in stage_numbers(stage, stage.record.headline)]
