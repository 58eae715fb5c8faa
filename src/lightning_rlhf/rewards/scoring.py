"""Computes the scores of a batch with functions of texts, and with sums of several sources."""

import math
from collections.abc import Callable, Mapping
from itertools import chain

import torch
from torch import nn

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Answers, Scores
from lightning_rlhf.rewards.function import TextReward
from lightning_rlhf.rewards.net import ended
from lightning_rlhf.rewards.tokens import token_texts

Reward = Callable[[Answers], Scores]
"""Scores a batch of answers."""


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
    if len(absent) == len(scores):
        _check_scored(torch.stack(list(absent.values())).all(0), f"no part of the sum ({', '.join(scores)})", answers)
    totals = {
        name: score.total.masked_fill(absent[name], math.nan) if name in absent else score.total
        for name, score in scores.items()
    }
    return Scores(whole, totals, torch.stack(tokens).sum(0) if tokens else None)


def score_all_texts(function: TextReward, renderer: Renderer, answers: Answers) -> Scores:
    """Scores a batch with a function of texts that is not a part of a sum; see `score_texts`.

    Raises:
        UserError: If the function has no score for a response.
    """
    scores = score_texts(function, renderer, answers)
    if scores.absent is not None:
        _check_scored(scores.absent, f"{function.name} returned None, so nothing", answers)
    return scores._replace(absent=None)


def score_texts(function: TextReward, renderer: Renderer, answers: Answers) -> Scores:
    """Scores a batch with a function of texts, which may request `finished` and `response_tokens` like columns."""
    sequences, mask = answers.sequences, answers.sequences.response_mask
    finished = ended(sequences, renderer.stop_ids)
    columns = [{**row, "finished": end} for row, end in zip(answers.columns, finished, strict=True)]
    if "response_tokens" in function.columns:
        for row, ids, counts in zip(columns, sequences.responses, mask, strict=True):
            row["response_tokens"] = token_texts(renderer, ids[counts].tolist())
    whole, tokens = function.score(answers.prompts, answers.responses, columns, mask.sum(1).tolist())
    absent = torch.tensor([score is None for score in whole], device=mask.device) if None in whole else None
    numbers = torch.tensor([score or 0.0 for score in whole], dtype=torch.float32, device=mask.device)
    scores = Scores(numbers, {}, absent=absent)
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
