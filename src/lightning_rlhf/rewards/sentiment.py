"""The sentiment of a text, judged by its words: a reward for quick experiments.

Source: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text" (2014).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from lightning_rlhf.errors import require


class _Analyzer(Protocol):
    def polarity_scores(self, text: str) -> dict[str, float]: ...


def vader(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Rates the sentiment of each English response from -1 to 1, with the package vaderSentiment.

    Args:
        prompts: The prompts, which are ignored.
        responses: The texts to rate.

    Returns:
        VADER's compound scores.

    Raises:
        UserError: If the package is not installed.
    """
    require("vaderSentiment", "sentiment", "a reward of sentiment")
    return [float(_analyzer().polarity_scores(response)["compound"]) for response in responses]


@lru_cache(maxsize=1)
def _analyzer() -> _Analyzer:
    """Makes the analyzer once, since it reads a list of words."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
