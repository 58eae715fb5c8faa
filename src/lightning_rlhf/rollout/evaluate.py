"""Answers held-out prompts, and summarizes the answers as metrics of a stage."""

from typing import Any

import torch

from lightning_rlhf.data.batches import PromptBatch
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.distributed.collectives import gather_objects
from lightning_rlhf.rewards import TextReward
from lightning_rlhf.rollout.engines.engine import RolloutEngine
from lightning_rlhf.rollout.sampled import Sampled, sample
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.rollout.texts import decode, decoder, finish_reason
from lightning_rlhf.seeding import EVALUATION, RandomKey

Sample = dict[str, Any]


class HeldOutAnswers:
    """Gathers the answers of one validation pass.

    Each prompt has its own random numbers, which are the same in every pass, so that two models are compared under the
    same randomness.
    """

    def __init__(self, sampling: Sampling, renderer: Renderer, gold: TextReward | None, seed: int) -> None:
        """Prepares an empty pass.

        Args:
            sampling: Settings of the sampling distribution; temperature 0 is greedy.
            renderer: Turns tokens into text.
            gold: The gold metric, between 0 and 1 (fully met), if there is one. If its function has an attribute
                `metric_name`, the mean is logged under that name.
            seed: Seed of the random numbers.
        """
        self.sampling, self.renderer, self.gold, self.seed = sampling, renderer, gold, seed
        name = getattr(gold and gold.function, "metric_name", None)
        self.gold_name = {} if name is None else {"gold_name": name}
        self.samples: dict[int, Sample] = {}
        self.before: list[Sample] | None = None
        """Answers before training, with which later answers are compared."""

    def answer(self, engine: RolloutEngine, batch: PromptBatch) -> Sampled:
        """Draws an answer to each prompt of a batch and keeps it."""
        keys = [RandomKey(self.seed, (EVALUATION, index), row=0) for index in batch.indices]
        sampled = sample(
            engine,
            batch.input_ids,
            batch.attention_mask,
            keys,
            self.sampling,
            stop_ids=self.renderer.stop_ids,
            decode=decoder(self.renderer),
        )
        responses = decode(sampled.sequences, self.renderer)
        golds = self.gold(batch.texts, responses, batch.columns) if self.gold else [None] * len(responses)
        lengths = sampled.sequences.response_mask.sum(1).tolist()
        for row, index in enumerate(batch.indices):
            self.samples[index] = {
                "row": index,
                "prompt": batch.texts[row],
                "messages": batch.columns[row]["messages"],
                "response": responses[row],
                "length": lengths[row],
                "finish_reason": finish_reason(sampled.finished[row]),
                "weights_version": int(sampled.weights_version[row]),
            } | ({} if golds[row] is None else {"gold": golds[row], **self.gold_name})
        return sampled

    def add(self, batch: PromptBatch, name: str, values: torch.Tensor, dropped: torch.Tensor | None = None) -> None:
        """Adds a number, such as the score, to each answer of a batch, except to those for which it is dropped."""
        absent = [False] * len(batch.indices) if dropped is None else dropped.tolist()
        for index, value, without in zip(batch.indices, values.tolist(), absent, strict=True):
            if not without:
                self.samples[index][name] = value

    def finish(self) -> list[Sample]:
        """Returns the answers of all ranks in the order of the prompts, and empties this pass for the next one."""
        everyone = dict(gather_objects(list(self.samples.items())))
        self.samples = {}
        return [everyone[index] for index in sorted(everyone)]


def summarize(samples: list[Sample], before: list[Sample] | None = None) -> dict[str, float]:
    """Averages measurements over the answers.

    Args:
        samples: Answers of a pass.
        before: Answers before training, perhaps to only some of the prompts. Answers to the same row of the held-out
            data are compared, since a prompt may occur more than once, and conversations may end alike.

    Returns:
        `response_length`, `eos_rate`, and if they are known `score`, `kl`, `gold_mean` (mean of the gold metric, under
        its own name if it has one), `gold_rate` (share of answers that meet it fully) and `gold_win_rate` (share of
        answers with a higher gold metric than the answer before training; a tie counts half).
    """
    metrics = {
        "response_length": _mean([sample["length"] for sample in samples]),
        "eos_rate": _mean([sample["finish_reason"] == "stop" for sample in samples]),
    }
    for name in ("score", "kl"):
        if known := [sample[name] for sample in samples if name in sample]:
            metrics[name] = _mean(known)
    if "gold" in samples[0]:
        metrics[samples[0].get("gold_name", "gold_mean")] = _mean([sample["gold"] for sample in samples])
        metrics["gold_rate"] = _mean([sample["gold"] >= 1 for sample in samples])
        earlier = {_place(sample): sample["gold"] for sample in before or []}
        pairs = [(sample["gold"], earlier[_place(sample)]) for sample in samples if _place(sample) in earlier]
        if pairs:
            metrics["gold_win_rate"] = _mean([1.0 if new > old else 0.5 * (new == old) for new, old in pairs])
    return metrics


def _place(sample: Sample) -> tuple[int, str]:
    """Identifies the prompt of an answer by its row, and by its text in case the held-out data have changed."""
    return sample["row"], sample["prompt"]


def _mean(values: list[float]) -> float:
    return float(sum(values) / len(values))
