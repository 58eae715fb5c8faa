"""A reward that has no score for some responses, whichever process asks."""

from math import nan


def score(prompts: list[str], responses: list[str]) -> list[float]:
    """Scores the length, except of about a third of the responses."""
    return [nan if sum(map(ord, response)) % 3 == 0 else float(len(response)) for response in responses]
