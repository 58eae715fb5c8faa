"""Chooses the samples of a run card: answers before and after training, and rollouts along the way."""

from dataclasses import dataclass

from lightning_rlhf.report.read import Sample, Stage

_PAIRS = 8
_ROLLOUTS = 6


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt; `after` is None while there is nothing but the start model's."""

    prompt: str
    before: Sample
    after: Sample | None


def before_and_after(stage: Stage) -> list[Pair]:
    """Up to eight prompts with the first and the newest held-out answer, those that changed first."""
    held_out = [sample for sample in stage.samples if sample.phase == "evaluation"]
    if not held_out:
        return []
    iterations = {sample.iteration for sample in held_out}
    first, last = (_by_prompt(held_out, iteration) for iteration in (min(iterations), max(iterations)))
    if len(iterations) == 1:
        return [Pair(prompt, sample, None) for prompt, sample in first.items()][:_PAIRS]
    pairs = [(sample.response == last[prompt].response, prompt) for prompt, sample in first.items() if prompt in last]
    # The sort is stable: among those that changed, and those that did not, the order of the file stays.
    pairs.sort(key=lambda pair: pair[0])
    return [Pair(prompt, first[prompt], last[prompt]) for _, prompt in pairs[:_PAIRS]]


def _by_prompt(samples: list[Sample], iteration: int) -> dict[str, Sample]:
    """The first answer to each prompt at that iteration, in the order of the file."""
    found: dict[str, Sample] = {}
    for sample in samples:
        if sample.iteration == iteration:
            found.setdefault(sample.prompt, sample)
    return found


def rollouts_over_time(stage: Stage) -> list[Sample]:
    """One rollout of each of up to six iterations, evenly spread from the first to the newest."""
    found: dict[int, Sample] = {}
    for sample in stage.samples:
        if sample.phase == "rollout":
            found.setdefault(sample.iteration, sample)
    iterations = sorted(found)
    count = min(len(iterations), _ROLLOUTS)
    chosen = {iterations[round(i * (len(iterations) - 1) / max(count - 1, 1))] for i in range(count)}
    return [found[iteration] for iteration in sorted(chosen)]
