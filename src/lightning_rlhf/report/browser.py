"""The data of the sample browser: all samples of a run that a page can hold, for searching, filtering and sorting."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_rlhf.report.formatting import decimal
from lightning_rlhf.report.html import clip
from lightning_rlhf.report.run import Run, Sample, Stage
from lightning_rlhf.report.samples import spread

MEASURES: dict[str, tuple[str, Callable[[Sample], float | None]]] = {
    "score": ("Score", lambda sample: sample.score),
    "gold": ("Gold", lambda sample: sample.gold),
    "kl": ("KL, nats", lambda sample: sample.kl),
    "length": ("Tokens", lambda sample: sample.length),
}
"""What samples are sorted and filtered by, with a label and the value of a sample."""
# About the number of characters of all held-out answers on a page, and of all rollouts.
_MAX_PAGE = 1_500_000
_MAX_TEXT = 4000


@dataclass(frozen=True)
class Browser:
    """The content of the sample browser."""

    data: dict[str, Any]
    """`stages`, `prompts` and `samples`, for the script of the page."""
    note: str
    """Which samples there are."""
    measures: dict[str, str]
    """The measures that at least one sample has, with their labels."""
    iterations: list[int]
    phases: list[str]


def browser(run: Run) -> Browser | None:
    """The sample browser of a run; None if the run has kept no samples."""
    chosen = [(number, sample) for number, stage in enumerate(run.stages) for sample in _within_budget(stage)]
    total = sum(len(_latest(stage.samples)) for stage in run.stages)
    if not chosen:
        return None
    prompts: dict[tuple[tuple[str, str], ...], int] = {}
    rows = [_row(number, sample, prompts.setdefault(sample.messages, len(prompts))) for number, sample in chosen]
    samples = [sample for _, sample in chosen]
    part = f" These are {len(rows):,} of {total:,}, spread evenly; samples.jsonl has all."
    return Browser(
        data={
            "stages": [{"title": stage.record.short_title, "unit": stage.record.unit} for stage in run.stages],
            "prompts": [[[role, clip(text, _MAX_TEXT)] for role, text in messages] for messages in prompts],
            "samples": rows,
        },
        note="Held-out answers and rollouts that the run has kept." + (part if len(rows) < total else ""),
        measures={
            name: label for name, (label, value) in MEASURES.items() if any(value(each) is not None for each in samples)
        },
        iterations=sorted({sample.iteration for sample in samples}),
        phases=sorted({sample.phase for sample in samples}),
    )


def _row(stage: int, sample: Sample, prompt: int) -> dict[str, Any]:
    return {
        "stage": stage,
        "phase": sample.phase,
        "iteration": sample.iteration,
        "row": sample.row,
        "prompt": prompt,
        "response": clip(sample.response, _MAX_TEXT),
        "cut": sample.finish_reason == "length",
        "measures": measured(sample),
    }


def measured(sample: Sample) -> dict[str, tuple[float, str]]:
    """The measures of a sample that are known: the value to sort by, and the text to show."""
    values = {name: value(sample) for name, (_, value) in MEASURES.items()}
    return {name: (float(f"{value:.6g}"), decimal(value)) for name, value in values.items() if value is not None}


def _latest(samples: Iterable[Sample]) -> list[Sample]:
    """The samples without answers that a resumed run has written again."""
    found: dict[object, Sample] = {}
    for number, sample in enumerate(samples):
        found[number if sample.row is None else (sample.phase, sample.iteration, sample.row)] = sample
    return list(found.values())


def _within_budget(stage: Stage) -> list[Sample]:
    """The samples that fit on a page: all answers to a row of the held-out data, and all rollouts of an iteration."""
    rows: dict[int, list[Sample]] = {}
    rollouts: dict[int, list[Sample]] = {}
    for sample in _latest(stage.samples):
        groups, key = (rollouts, sample.iteration) if sample.row is None else (rows, sample.row)
        groups.setdefault(key, []).append(sample)
    return [*_fitting(list(rows.values())), *_fitting(list(rollouts.values()))]


def _fitting(groups: Sequence[list[Sample]]) -> list[Sample]:
    sizes = [sum(len(clip(sample.response, _MAX_TEXT)) + len(sample.prompt) for sample in group) for group in groups]
    share = min(1.0, _MAX_PAGE / max(sum(sizes), 1))
    return [sample for group in spread(groups, max(1, int(len(groups) * share))) for sample in group]
