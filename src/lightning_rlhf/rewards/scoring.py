"""Computes the scores of a batch with functions of texts, and with sums of several sources."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Answers, Scores
from lightning_rlhf.rewards.function import TextReward
from lightning_rlhf.rewards.net import ended
from lightning_rlhf.rewards.remote import Remote, remote_of
from lightning_rlhf.rewards.tokens import token_texts

Reward = Callable[[Answers], Scores]
"""Scores a batch of answers."""


@dataclass(frozen=True)
class FunctionScores:
    """Scores batches with a function of texts.

    Attributes:
        function: The function.
        renderer: The renderer of the actor.
        part_of_sum: Whether the function may leave out scores.
    """

    function: TextReward
    renderer: Renderer
    part_of_sum: bool = False

    @property
    def remote(self) -> Remote | None:
        """What the function says of itself."""
        return self.function.remote

    def __call__(self, answers: Answers) -> Scores:
        """Scores a batch; see `score_texts`.

        Raises:
            UserError: If the function has no score for a response, and is neither part of a sum nor allowed to drop it.
        """
        scores = score_texts(self.function, self.renderer, answers)
        if scores.absent is None or self.part_of_sum:
            return scores
        if scores.dropped is not None:
            return scores._replace(dropped=scores.absent)
        _check_scored(scores.absent, f"{self.function.name} returned None, so nothing", answers)
        return scores


@dataclass(frozen=True)
class FunctionSum:
    """A weighted sum of functions, with parts and weights of the same names."""

    parts: Mapping[str, Reward]
    weights: Mapping[str, float]

    @property
    def remote(self) -> Remote | None:
        """The limits of all parts together; None if any part has to be asked about one batch after the other."""
        limits = [limit for part in self.parts.values() if (limit := remote_of(part)) is not None]
        if len(limits) < len(self.parts):
            return None
        return Remote(calls=min(limit.calls for limit in limits), rows=min(limit.rows for limit in limits))

    def __call__(self, answers: Answers) -> Scores:
        """Computes the weighted sum of the scores of a batch."""
        return add_up(self.parts, self.weights, answers)


class NetSum(nn.Module):
    """A weighted sum that has models among its parts."""

    def __init__(self, parts: Mapping[str, Reward], weights: Mapping[str, float]) -> None:
        """Stores parts and weights, which have the same names."""
        super().__init__()
        nets = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
        self.nets, self.weights = nn.ModuleDict(nets), weights
        self.functions = {name: part for name, part in parts.items() if name not in nets}

    def forward(self, answers: Answers) -> Scores:
        """Computes the weighted sum of the scores of a batch."""
        return add_up({**self.nets, **self.functions}, self.weights, answers)


def add_up(parts: Mapping[str, Reward], weights: Mapping[str, float], answers: Answers) -> Scores:
    """Scores a batch with each part, and computes the weighted sums of scores of responses and of tokens.

    A part without a score for a response contributes nothing to it.

    Raises:
        UserError: If no part has a score for a response.
    """
    scores = {name: part(answers) for name, part in parts.items()}
    whole = torch.stack([weights[name] * score.whole for name, score in scores.items()]).sum(0)
    tokens = [weights[name] * score.tokens for name, score in scores.items() if score.tokens is not None]
    absent = {name: score.absent for name, score in scores.items() if score.absent is not None}
    failed = [score.dropped for score in scores.values() if score.dropped is not None]
    # Without one of its parts, a sum would be another reward.
    dropped = torch.stack(failed).any(0) if failed else None
    if len(absent) == len(scores):
        unscored = torch.stack(list(absent.values())).all(0)
        unscored = unscored if dropped is None else unscored & ~dropped
        _check_scored(unscored, f"no part of the sum ({', '.join(scores)})", answers)
    totals = {
        name: score.total.masked_fill(absent[name], math.nan) if name in absent else score.total
        for name, score in scores.items()
    }
    return Scores(whole, totals, torch.stack(tokens).sum(0) if tokens else None, dropped=dropped)


def score_texts(function: TextReward, renderer: Renderer, answers: Answers) -> Scores:
    """Scores a batch with a function of texts, which may request `finished` and `response_tokens` like columns."""
    sequences, mask = answers.sequences, answers.sequences.response_mask
    finished = ended(sequences, renderer.stop_ids)
    columns = [{**row, "finished": end} for row, end in zip(answers.columns, finished, strict=True)]
    if "response_tokens" in function.columns:
        for row, ids, counts in zip(columns, sequences.responses, mask, strict=True):
            row["response_tokens"] = token_texts(renderer, ids[counts].tolist())
    whole, tokens, failed = function.score(answers.prompts, answers.responses, columns, mask.sum(1).tolist())
    absent = torch.tensor([score is None for score in whole], device=mask.device) if None in whole else None
    dropped = None if failed is None else torch.tensor(failed, device=mask.device)
    numbers = torch.tensor([score or 0.0 for score in whole], dtype=torch.float32, device=mask.device)
    scores = Scores(numbers, {}, absent=absent, dropped=dropped)
    if tokens is None:
        return scores
    numbers = torch.tensor(list(chain.from_iterable(tokens)), dtype=torch.float32, device=mask.device)
    return scores._replace(tokens=torch.zeros_like(mask, dtype=torch.float32).masked_scatter(mask, numbers))


def _check_scored(absent: torch.Tensor, what: str, answers: Answers) -> None:
    """Checks that all responses have a score."""
    if absent.any():
        row = int(absent.nonzero()[0])
        raise UserError(
            f"{what} scores response {row + 1} of {len(absent)}, {answers.responses[row][:80]!r}; None means that a "
            "part of a sum (reward=weighted) has no score for a response, and another part must have one"
        )
