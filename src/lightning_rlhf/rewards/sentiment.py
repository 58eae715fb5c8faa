"""How kind or pleased a text sounds, by the words in it: a reward for trying things out.

Source: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text" (2014).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from lightning_rlhf.errors import require


def vader(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """The sentiment of each response, from -1 to 1, as the package vaderSentiment rates it in English.

    Args:
        prompts: Of no account.
        responses: The texts.

    Returns:
        VADER's compound scores.

    Raises:
        UserError: If the package is not installed.
    """
    require("vaderSentiment", "sentiment", "a reward of sentiment")
    return [float(_analyzer().polarity_scores(response)["compound"]) for response in responses]


@lru_cache(maxsize=1)
def _analyzer() -> Any:
    """Reads its list of words once."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
