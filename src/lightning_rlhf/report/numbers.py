"""The numbers of a run card: the headline at the top, and tables of held-out metrics and costs of each stage."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lightning_rlhf.report.run import Run, Stage


@dataclass(frozen=True)
class Number:
    """One labelled value. `before` is the value before training, if it was measured."""

    label: str
    value: str
    before: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table of text. The first column names the row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


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


def duration(seconds: float) -> str:
    """Formats a duration, such as `42 s`, `7 min 5 s` or `3 h 12 min`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


METRICS: dict[str, tuple[str, Callable[[float], str], str]] = {
    "gold_rate": ("Gold rate", percent, "held-out answers that the gold rule accepts"),
    "gold_win_rate": (
        "Win rate",
        percent,
        "prompts where the answer beats the start model’s; ties count half",
    ),
    "score": ("Score", decimal, "mean reward-model score of held-out answers"),
    "kl": ("KL", decimal, "nats per response away from the start model"),
    "reward_accuracy": ("Reward accuracy", percent, "held-out pairs where the preferred answer scores higher"),
    "longer_wins_accuracy": ("“Longer wins”", percent, "accuracy of always preferring the longer answer"),
    "shorter_wins_accuracy": ("“Shorter wins”", percent, "accuracy of always preferring the shorter answer"),
    "perplexity": ("Perplexity", decimal, "on held-out answers; 1 is perfect"),
    "loss": ("Loss", decimal, "held-out, in nats"),
    "response_length": ("Response length", decimal, "tokens, mean over held-out answers"),
    "eos_rate": ("Ends by itself", percent, "held-out answers with an end token before the length limit"),
}
# Before training, these metrics have the same value for every model or every data set, so it is not shown.
_NO_BEFORE = ("kl", "gold_win_rate", "reward_accuracy", "longer_wins_accuracy", "shorter_wins_accuracy")


def final(stage: Stage, name: str) -> float | None:
    """A held-out metric from the result or, if the run has no result yet, the value that was logged last."""
    logged = stage.series.get(f"val/{name}")
    return stage.result.metrics.get(name, logged.last if logged else None)


def before(stage: Stage, name: str) -> float | None:
    """A held-out metric of the model from which a policy started; None if the stage has no reference or no value."""
    logged = stage.series.get(f"val/{name}")
    if not stage.record.has_reference or logged is None or logged.x[0] != 0:
        return None
    has_after = name in stage.result.metrics or len(logged.x) > 1
    return float(logged.y[0]) if has_after else None


def stage_numbers(stage: Stage, names: tuple[str, ...] = tuple(METRICS)) -> list[Number]:
    """The held-out metrics of a stage that are known, in the order of `names`."""
    numbers = []
    for name in names:
        label, show, note = METRICS.get(name, (name.replace("_", " ").capitalize(), decimal, ""))
        value, start = final(stage, name), before(stage, name)
        if name in _NO_BEFORE:
            start = None
        if value is not None:
            numbers.append(Number(label, show(value), None if start is None else show(start), note))
    return numbers


def headline(run: Run) -> list[Number]:
    """The numbers at the top of the page, which show how the run went; usually at most four."""
    if len(run.stages) == 1:
        (stage,) = run.stages
        return stage_numbers(stage, stage.record.headline)
    wanted = run.stages[-1].record.headline_of_pipeline if run.stages else ()
    found = {metric: [stage for stage in run.stages if final(stage, metric) is not None] for metric in wanted}
    numbers = [number for metric, has in found.items() if has for number in stage_numbers(has[-1], (metric,))]
    return numbers or [number for stage in run.stages for number in stage_numbers(stage, stage.record.headline)]


def summary(run: Run) -> str:
    """One sentence on the last stage that has a result; empty if no stage has one."""
    texts = (_policy_sentence(stage) or _reward_sentence(stage) or _text_sentence(stage) for stage in run.stages[::-1])
    return next(filter(None, texts), "")


def _policy_sentence(stage: Stage) -> str:
    for name, label, show in (("gold_rate", "gold rate", percent), ("score", "reward-model score", decimal)):
        start, end, kl = before(stage, name), final(stage, name), final(stage, "kl")
        if start is None or end is None or not math.isfinite(start) or not math.isfinite(end):
            continue
        verb = "raised" if end > start else "lowered" if end < start else "left"
        change = f"from {show(start)} to {show(end)}" if end != start else f"at {show(end)}"
        cost = f", {decimal(kl)} nats of KL per response away from the model it started from" if kl is not None else ""
        return f"{stage.record.title} {verb} the {label} on held-out prompts {change}{cost}."
    return ""


def _reward_sentence(stage: Stage) -> str:
    accuracy = final(stage, "reward_accuracy")
    rules = [final(stage, name) for name in ("longer_wins_accuracy", "shorter_wins_accuracy")]
    known = [rule for rule in rules if rule is not None]
    if accuracy is None:
        return ""
    rule = f"; the better length rule manages {percent(max(known))}" if known else ""
    judge = "reward model" if stage.record.trains_reward_model else "implicit reward"
    return f"The {judge} scores the preferred answer higher in {percent(accuracy)} of held-out pairs{rule}."


def _text_sentence(stage: Stage) -> str:
    perplexity = final(stage, "perplexity")
    return "" if perplexity is None else f"The model reaches a perplexity of {decimal(perplexity)} on held-out answers."


def costs(run: Run) -> Table:
    """Time, speed and memory of each stage. Columns without values are left out."""
    columns: dict[str, Callable[[Stage], str]] = {
        "Time": lambda stage: "" if stage.result.seconds is None else duration(stage.result.seconds),
        "Rollouts": lambda stage: _reduced(stage, "perf/rollout_seconds", np.nansum, duration),
        "Updates": lambda stage: _reduced(stage, "perf/update_seconds", np.nansum, duration),
        "Tokens/s": lambda stage: _reduced(stage, "perf/tokens_per_second", np.nanmedian, decimal),
        "Samples/s": lambda stage: _reduced(stage, "perf/samples_per_second", np.nanmedian, decimal),
        "TFLOP/s": lambda stage: _reduced(stage, "perf/tflops", np.nanmedian, decimal),
        "Peak memory": _peak,
        "Planned": _planned,
    }
    cells = {title: [cell(stage) for stage in run.stages] for title, cell in columns.items()}
    kept = tuple(title for title, column in cells.items() if any(column))
    rows = [(stage.record.title, *(cells[title][i] for title in kept)) for i, stage in enumerate(run.stages)]
    if len(run.stages) > 1 and "Time" in kept and run.result.seconds is not None:
        rows.append(("Whole pipeline", *(duration(run.result.seconds) if title == "Time" else "" for title in kept)))
    return Table(("Stage", *kept), tuple(rows) if kept else ())


def _reduced(stage: Stage, name: str, reduce: Callable[..., float], show: Callable[[float], str]) -> str:
    series = stage.series.get(name)
    return "" if series is None or series.last is None else show(float(reduce(series.y)))


def _planned(stage: Stage) -> str:
    return "" if stage.planned_bytes is None else f"{stage.planned_bytes / 2**30:.2f} GiB of tensors"


def _peak(stage: Stage) -> str:
    if stage.result.peak_bytes is not None:
        # The memory of a process includes Python and libraries, which a plan does not.
        what = ", whole process" if stage.result.peak_of == "whole process" else ""
        return f"{stage.result.peak_bytes / 2**30:.2f} GiB{what}"
    return _reduced(stage, "perf/peak_gib", np.nanmax, lambda gib: f"{gib:.2f} GiB")
