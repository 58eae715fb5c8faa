"""What is done to the scores of responses before they become rewards.

Shapes: B rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.ops.moments import Moments
from lightning_rlhf.ops.rewards import overlong_penalty


@dataclass(frozen=True, kw_only=True)
class RewardShaping:
    """In this order: normalised, clipped, replaced or punished for a missing end, punished for length."""

    normalize: bool = False
    """Scores get mean 0 and standard deviation 1 over all responses of the run so far."""
    clip: float | None = None
    """Scores are clipped to ± this."""
    missing_eos_score: float | None = None
    """The score of a response that the length limit cut, whatever the reward source says (Stiennon et al.: -1)."""
    missing_eos_penalty: float = 0.0
    """Taken from the score of a response that the length limit cut."""
    length_penalty: float = 0.0
    """Taken from the score for each token."""
    overlong_buffer: int = 0
    """Tokens before the length limit in which a penalty grows (DAPO's soft over-long punishment); 0: none."""
    overlong_penalty: float = 1.0
    """That penalty at the limit."""
    whiten: bool = False
    """Rewards of tokens get standard deviation 1, around the mean that they have."""

    def __post_init__(self) -> None:
        """Checks the values."""
        problems = []
        if self.clip is not None and self.clip <= 0:
            problems.append(f"shaping.clip={self.clip}: must be positive")
        if self.missing_eos_score is not None and self.missing_eos_penalty:
            problems.append(
                f"shaping.missing_eos_score={self.missing_eos_score} and missing_eos_penalty="
                f"{self.missing_eos_penalty}: a score is either replaced or lowered; set one of them"
            )
        for name in ("missing_eos_penalty", "length_penalty", "overlong_buffer", "overlong_penalty"):
            if getattr(self, name) < 0:
                problems.append(f"shaping.{name}={getattr(self, name)}: must not be negative")
        raise_problems(problems)

    def check_limit(self, max_length: int) -> None:
        """Checks that the buffer lies within the longest response.

        Raises:
            UserError: If it does not.
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
        scores: (B,) from the reward source.
        lengths: (B,) tokens.
        finished: (B,) bool: ended with a stop token.
        shaping: What to do.
        moments: Of all scores of the run, these included.
        max_length: The length limit.

    Returns:
        (B,).
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
