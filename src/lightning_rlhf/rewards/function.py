"""Scores by a Python function of texts: verifiable rewards, rules, and the gold metric of an evaluation."""

import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from lightning_rlhf.errors import UserError

ScoreFunction = Callable[..., Sequence[float]]


class TextReward:
    """Calls `function(prompts, responses, **columns)` and checks what it returns.

    The function gets two lists of texts, and of the data's other columns those that its signature names, each as a
    list. It returns one number for each response.

    Example:
        >>> TextReward(lambda prompts, responses: [float(len(r) < 80) for r in responses])
        >>> TextReward("my_package.rewards:exact_answer")
    """

    def __init__(self, function: str | ScoreFunction) -> None:
        """Takes the function, or finds it by its name `module:function`.

        Raises:
            UserError: If there is no such function.
        """
        self.name = function if isinstance(function, str) else getattr(function, "__name__", repr(function))
        self.function = _find(function) if isinstance(function, str) else function
        parameters = inspect.signature(self.function).parameters.values()
        self.takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self.columns = [p.name for p in parameters][2:]

    def __call__(self, prompts: list[str], responses: list[str], columns: list[dict[str, Any]]) -> list[float]:
        """Scores responses.

        Args:
            prompts: Last user turns.
            responses: The answers.
            columns: The other columns of each row.

        Raises:
            UserError: If the function returns anything but one finite number for each response.
        """
        names = sorted(set().union(*columns)) if self.takes_all else self.columns
        wanted = {name: [row.get(name) for row in columns] for name in names if any(name in row for row in columns)}
        scores = [float(score) for score in self.function(prompts, responses, **wanted)]
        if len(scores) != len(responses):
            raise UserError(f"{self.name} returned {len(scores)} scores for {len(responses)} responses")
        for response, score in zip(responses, scores, strict=True):
            if not math.isfinite(score):
                raise UserError(f"{self.name} returned {score} for the response {response[:80]!r}; scores are finite")
        return scores


def _find(name: str) -> ScoreFunction:
    module_name, _, function_name = name.partition(":")
    if not function_name:
        raise UserError(f"{name!r} is not a function: write module:function, such as my_package.rewards:exact_answer")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"{name!r}: cannot import {error.name!r}; is it installed, or on PYTHONPATH?") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(f"{name!r}: module {module_name!r} has no function {function_name!r}")
    return function
