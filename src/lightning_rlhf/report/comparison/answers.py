"""The newest answers of several runs to the same prompts."""

from collections.abc import Sequence
from typing import Any

from lightning_rlhf.report.browser import MEASURES, measured
from lightning_rlhf.report.comparison.entry import Entry
from lightning_rlhf.report.html import clip
from lightning_rlhf.report.measures import answers
from lightning_rlhf.report.run import Sample

Conversation = tuple[tuple[str, str], ...]
# About the number of characters of all answers on a page.
_MAX_PAGE = 2_000_000


def side_by_side(entries: Sequence[Entry]) -> dict[str, Any]:
    """The held-out prompts that two runs or more have answered, with the newest answer of each run.

    Prompts whose answers differ most in gold metric come first, or in score if there is no gold metric. A page that
    would become too large has the first of them.

    Returns:
        `prompts`, each with its `messages` and its `answers`, a list with an answer or None for each run, and `total`,
        the number of prompts before any was left out.
    """
    of_runs = [_newest(entry) for entry in entries]
    prompts = list(dict.fromkeys(key for found in of_runs for key in found))
    shared = [(key, [found.get(key) for found in of_runs]) for key in prompts]
    shared = [(key, row) for key, row in shared if sum(sample is not None for sample in row) > 1]
    shared.sort(key=lambda item: _spread(item[1]), reverse=True)
    kept: list[dict[str, Any]] = []
    size = 0
    for (_, messages), row in shared:
        size += sum(len(clip(sample.response)) for sample in row if sample is not None)
        if kept and size > _MAX_PAGE:
            break
        kept.append(
            {
                "messages": [[role, clip(text)] for role, text in messages],
                "answers": [None if sample is None else _answer(sample) for sample in row],
            }
        )
    return {"prompts": kept, "total": len(shared)}


def _newest(entry: Entry) -> dict[tuple[int, Conversation], Sample]:
    """The newest held-out answers of the last stage that has any, by row and conversation."""
    for stage in reversed(entry.run.stages):
        found = answers(stage, first=False)
        if found:
            return {(row, sample.messages): sample for row, sample in found.items()}
    return {}


def _spread(row: Sequence[Sample | None]) -> tuple[float, float]:
    return tuple(_range(row, name) for name in ("gold", "score"))  # type: ignore[return-value]


def _range(row: Sequence[Sample | None], name: str) -> float:
    _, value = MEASURES[name]
    known = [found for sample in row if sample is not None and (found := value(sample)) is not None]
    return max(known) - min(known) if known else 0.0


def _answer(sample: Sample) -> dict[str, Any]:
    return {
        "response": clip(sample.response),
        "cut": sample.finish_reason == "length",
        "measures": measured(sample),
    }
