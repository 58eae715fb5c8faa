"""Transforms the scores of responses before they become rewards.

Shapes: B rows.
"""

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.ops.moments import Moments
from lightning_rlhf.ops.rewards import overlong_penalty


@dataclass(frozen=True, kw_only=True)
class RewardShaping:
    """Settings of reward shaping.

    Scores are first normalised, then clipped, then replaced or lowered if the response has no stop token, and finally
    lowered for the length of the response.

    Attributes:
        normalize: Whether scores get mean 0 and standard deviation 1 over all responses of the run so far.
        clip: Scores are clipped to the range from -clip to clip.
        missing_eos_score: Replaces the score of a response that reached the length limit (Stiennon et al.: -1).
        missing_eos_penalty: Subtracted from the score of a response that reached the length limit.
        length_penalty: Subtracted from the score for each token.
        overlong_buffer: Number of tokens before the limit over which a penalty grows (DAPO's soft overlong punishment);
            0 for none.
        overlong_penalty: The value of that penalty at the limit.
        whiten: Whether the rewards of tokens are scaled to standard deviation 1; their mean is kept.
    """

    normalize: bool = False
    clip: float | None = None
    missing_eos_score: float | None = None
    missing_eos_penalty: float = 0.0
    length_penalty: float = 0.0
    overlong_buffer: int = 0
    overlong_penalty: float = 1.0
    whiten: bool = False

    def __post_init__(self) -> None:
        """Checks the values."""
        problems = []
        if self.clip is not None and not self.clip > 0:
            problems.append(f"shaping.clip={self.clip}: must be positive")
        if self.missing_eos_score is not None and self.missing_eos_penalty:
            problems.append(
                f"shaping.missing_eos_score={self.missing_eos_score} and missing_eos_penalty="
                f"{self.missing_eos_penalty}: a score is either replaced or lowered; set one of them"
            )
        if self.missing_eos_score is not None and not isfinite(self.missing_eos_score):
            problems.append(f"shaping.missing_eos_score={self.missing_eos_score}: must be finite")
        for name in ("missing_eos_penalty", "length_penalty", "overlong_buffer", "overlong_penalty"):
            if not getattr(self, name) >= 0:
                problems.append(f"shaping.{name}={getattr(self, name)}: must not be negative")
        raise_problems(problems)

    def check_limit(self, max_length: int) -> None:
        """Checks that the overlong buffer is shorter than the longest response.

        Raises:
            UserError: If it is not.
        """
        if self.overlong_buffer >= max_length:
            raise UserError(
                f"shaping.overlong_buffer={self.overlong_buffer} leaves nothing of max_new_tokens={max_length}: "
                "make it smaller"
            )


def shape_scores(
    scores: Tensor, lengths: Tensor, finished: Tensor, shaping: RewardShaping, *, moments: Moments, max_length: int
) -> Tensor:
    """Applies `shaping` to the scores of responses.

    Args:
        scores: (B,) scores from the reward source.
        lengths: (B,) lengths of the responses, in tokens.
        finished: (B,) bool: True if the response ended with a stop token.
        shaping: Settings of reward shaping.
        moments: Moments of all scores of the run, including these.
        max_length: Length limit of a response, in tokens.

    Returns:
        (B,) shaped scores.
    """
    if shaping.normalize:
        scores = (scores - moments.mean) / max(moments.std, 1e-8)
    if shaping.clip is not None:
        scores = scores.clamp(-shaping.clip, shaping.clip)
    if shaping.missing_eos_score is not None:
        scores = torch.where(finished, scores, shaping.missing_eos_score)
    scores = scores - torch.where(finished, 0.0, shaping.missing_eos_penalty) - shaping.length_penalty * lengths
    if shaping.overlong_buffer:
        punished = overlong_penalty(lengths, max_length=max_length, buffer=shaping.overlong_buffer)
        scores = scores + shaping.overlong_penalty * punished
    return scores
