"""Prints what an evaluation has found, as tables and sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from lightning_rlhf.console import console, number
from lightning_rlhf.evaluation.answers import Answered
from lightning_rlhf.evaluation.estimates import Estimate
from lightning_rlhf.evaluation.reward_model import RewardModelReport
from lightning_rlhf.evaluation.win_rates import WinRate


def print_reward_model(report: RewardModelReport) -> None:
    """Prints the measurements of a reward model."""
    table = _table("", "accuracy", "95% interval", "rows")
    for name, estimate in (
        ("reward model", report.accuracy),
        ("the longer answer wins", report.longer),
        ("the shorter answer wins", report.shorter),
    ):
        _add(table, name, estimate)
    for title, part in (
        ("source", report.by_source),
        ("mean length, tokens", report.by_length),
        ("good minus bad, tokens", report.by_difference),
    ):
        if part:
            table.add_section()
            for name, estimate in part.items():
                _add(table, f"{title}: {name}", estimate)
    console.table(table)
    if report.calibration is not None:
        bins = _table("confidence", "accuracy", "rows")
        for one in report.calibration.bins:
            bins.add_row(_percent(one.confidence), _percent(one.accuracy), str(one.num_rows))
        console.table(bins)
        console.say(
            f"calibration error {_percent(report.calibration.error)}, log loss {number(report.calibration.log_loss)} "
            "nats"
        )
    above = report.above_length
    gap, way = (above, "more") if above.value >= 0 else (_negated(above), "less")
    console.say(
        f"The model is right {_points(gap)} {way} often than the better rule about length"
        + ("." if above.low > 0 else ": these rows do not show that it knows more than length."),
        "" if above.low > 0 else "yellow",
    )


def print_models(
    rows: Sequence[Answered], rates: Mapping[str, WinRate], details: Mapping[str, Mapping[str, Any]]
) -> None:
    """Prints how two models compare.

    Args:
        rows: The answers.
        rates: The result of each judge.
        details: What else each judge has said.
    """
    for name in ("a", "b"):
        replies = [getattr(row, name) for row in rows]
        length = sum(len(reply.text) for reply in replies) / len(rows)
        ended = sum(reply.finish_reason == "stop" for reply in replies) / len(rows)
        scores = [f"mean {judge} {number(own[f'mean_{name}'])}" for judge, own in details.items() if "mean_a" in own]
        console.say(", ".join([f"{name}: {number(length)} characters, {_percent(ended)} end by themselves", *scores]))
    if not rates:
        console.say("No judge is named: give reward_model, gold, judge.model or labels.")
        return
    table = _table(
        "judge", "a wins", "95% interval", "a wins at equal length", "95% interval", "won", "tied", "lost", "no verdict"
    )
    for name, rate in rates.items():
        table.add_row(
            name,
            *(text for one in (rate.win_rate, rate.length_controlled) for text in (_percent(one.value), _range(one))),
            *map(str, (rate.wins, rate.ties, rate.losses, rate.missing)),
        )
    console.table(table)
    if said := details.get("judge"):
        count = len(said["order_disagreements"])
        console.say(
            f"The judge said something else when the answers were swapped on {count} of {len(rows)} prompts, which "
            "count as ties."
        )
        if said["first_wins"] is not None:
            console.say(f"The answer that came first won in {_percent(said['first_wins'])} of its verdicts.")
    for name, rate in rates.items():
        low, high = rate.win_rate.low, rate.win_rate.high
        better = "a is better than b" if low > 0.5 else "b is better than a" if high < 0.5 else "no clear difference"
        console.say(f"{name}: {better}")


def _add(table: Table, name: str, estimate: Estimate) -> None:
    table.add_row(name, _percent(estimate.value), _range(estimate), str(estimate.num_rows))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _range(estimate: Estimate) -> str:
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}%"


def _negated(estimate: Estimate) -> Estimate:
    return Estimate(-estimate.value, -estimate.high, -estimate.low, estimate.num_rows)


def _points(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} points ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place else "left")
    return table
