"""How often one model beats another, with and without the help of longer answers."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lightning_rlhf.evaluation.estimates import Estimate, mean_estimate, statistic_interval

WIN, TIE, LOSS = 1.0, 0.5, 0.0
"""What an answer of model a is worth beside the answer of model b."""

_INVERSE_PENALTY = 10.0
"""scikit-learn's C. The weight of the length has a normal prior of this variance, which is wide enough for a judge that
looks at nothing else, and keeps few rows from making it infinite; the intercept, which decides the result, has none."""


class WinRate(NamedTuple):
    """The result of model a against model b."""

    win_rate: Estimate
    """Share of prompts on which the answer of a is better; a tie counts half."""
    length_controlled: Estimate
    """The win rate that is to be expected if both answers were equally long."""
    wins: int
    ties: int
    losses: int
    missing: int
    """Number of prompts without a verdict, which count nowhere."""


def by_scores(a: Sequence[float], b: Sequence[float]) -> list[float | None]:
    """Turns the scores of two models' answers into verdicts: the higher score wins, and equal scores are a tie."""
    return [TIE if one == other else float(one > other) for one, other in zip(a, b, strict=True)]


def win_rate(
    verdicts: Sequence[float | None], differences: Sequence[float], prompts: Sequence[Hashable], *, seed: int = 0
) -> WinRate:
    """Computes the win rate and the length-controlled win rate.

    Args:
        verdicts: `WIN`, `TIE` or `LOSS` of model a for each prompt; None where there is no verdict. At least one is a
            verdict.
        differences: By how many characters the answer of a is longer.
        prompts: The prompt of each row; rows that share one are resampled together.
        seed: Seed of the resampling.
    """
    known = [row for row, verdict in enumerate(verdicts) if verdict is not None]
    values = np.asarray([verdicts[row] for row in known], dtype=float)
    lengths = np.asarray([differences[row] for row in known], dtype=float)
    groups = [prompts[row] for row in known]
    plain = mean_estimate(values.tolist(), groups, seed=seed)
    controlled = length_controlled(values, lengths)
    if np.ptp(values) == 0 or len(set(groups)) < 2:
        low, high = plain.low, plain.high
    else:
        low, high = statistic_interval((values, lengths), groups, length_controlled, seed=seed)
    return WinRate(
        plain,
        Estimate(controlled, low, high, len(known)),
        wins=int((values > TIE).sum()),
        ties=int((values == TIE).sum()),
        losses=int((values < TIE).sum()),
        missing=len(verdicts) - len(known),
    )


def length_controlled(verdicts: np.ndarray, differences: np.ndarray) -> float:
    """Computes the win rate that is to be expected between answers of equal length.

    A logistic regression explains the verdicts by which model answered (the intercept) and by tanh(difference of the
    lengths / its standard deviation). The prediction at a difference of 0 is the result.

    Source: Dubois et al., "Length-Controlled AlpacaEval" (2024), equation 2, without the term for the difficulty of the
    instruction, which takes the verdicts about many models to estimate.

    Args:
        verdicts: (N,) between 0 and 1.
        differences: (N,) by how much the answer of the first model is longer, in any unit.
    """
    from sklearn.linear_model import LogisticRegression

    spread = float(np.std(differences))
    won, lost = verdicts > 0, verdicts < 1
    if spread == 0 or not (won.any() and lost.any()):
        # Length explains nothing, or there is nothing to explain.
        return float(verdicts.mean())
    feature = np.tanh(differences / spread)
    # A tie is half a win and half a loss.
    model = LogisticRegression(C=_INVERSE_PENALTY).fit(
        np.concatenate([feature[won], feature[lost]])[:, None],
        np.concatenate([np.ones(won.sum()), np.zeros(lost.sum())]),
        sample_weight=np.concatenate([verdicts[won], 1 - verdicts[lost]]),
    )
    return float(1 / (1 + np.exp(-model.intercept_[0])))


def as_dict(result: WinRate) -> dict[str, Any]:
    """The fields by name, for `result.json`."""
    return {name: value.as_dict() if isinstance(value, Estimate) else value for name, value in result._asdict().items()}
