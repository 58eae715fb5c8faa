"""Chooses the samples of a run card: answers before and after training, and rollouts during training."""

from dataclasses import dataclass

from lightning_rlhf.report.run import Sample, Stage

_PAIRS = 8
_ROLLOUTS = 6


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt. `after` is None as long as only the start model has answered."""

    prompt: str
    before: Sample
    after: Sample | None


def before_and_after(stage: Stage) -> list[Pair]:
    """Up to eight prompts with their first and newest held-out answers. Those whose answers differ come first."""
    held_out = [sample for sample in stage.samples if sample.row is not None]
    if not held_out:
        return []
    iterations = {sample.iteration for sample in held_out}
    first, last = (_by_row(held_out, iteration) for iteration in (min(iterations), max(iterations)))
    if len(iterations) == 1:
        return [Pair(sample.prompt, sample, None) for sample in first.values()][:_PAIRS]
    pairs = [Pair(sample.prompt, sample, last[row]) for row, sample in first.items() if row in last]
    # The sort is stable, so each of the two groups keeps the order of the file.
    pairs.sort(key=lambda pair: pair.after is not None and pair.before.response == pair.after.response)
    return pairs[:_PAIRS]


def _by_row(samples: list[Sample], iteration: int) -> dict[int | None, Sample]:
    """The answers of an iteration by row, in the order of the file.

    Prompts may occur more than once. A resumed run may write an answer twice; the later one belongs to the resumed run.
    """
    return {sample.row: sample for sample in samples if sample.iteration == iteration}


def rollouts_over_time(stage: Stage) -> list[Sample]:
    """One rollout from each of up to six iterations, evenly spaced from the first to the newest."""
    found: dict[int, Sample] = {}
    for sample in stage.samples:
        if sample.phase == "rollout":
            found.setdefault(sample.iteration, sample)
    iterations = sorted(found)
    count = min(len(iterations), _ROLLOUTS)
    chosen = {iterations[round(i * (len(iterations) - 1) / max(count - 1, 1))] for i in range(count)}
    return [found[iteration] for iteration in sorted(chosen)]
