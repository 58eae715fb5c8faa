"""Scores from a Python function of texts: verifiable rewards, rules, servers, judges, and the gold metric."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence

from lightning_rlhf.errors import UserError
from lightning_rlhf.rewards.check import as_score

ScoreFunction = Callable[..., Sequence[object]]
"""Returns a number for each response. The function of a reward may return a list of numbers, one for each token."""

Columns = Sequence[Mapping[str, object]]
"""The other columns of each row, by name."""


class TextReward:
    """Calls `function(prompts, responses, **columns)` and checks the result.

    The function gets two lists of texts, and the other columns of the data that its signature names. Each column is a
    list, with None where a row has no value. The function returns a list, a tuple or a one-dimensional array with one
    number for each response; True counts as 1 and False as 0. A reward may score tokens instead: it then returns for
    each response a list, or a row of a two-dimensional array, with one number for each of its tokens.

    Example:
        >>> TextReward(lambda prompts, responses: [float(len(r) < 80) for r in responses])
        >>> TextReward("my_package.rewards:exact_answer")
    """

    def __init__(self, function: str | ScoreFunction) -> None:
        """Stores the function, or finds it by its name `module:function`.

        Raises:
            UserError: If there is no such function.
        """
        self.name = function if isinstance(function, str) else getattr(function, "__name__", repr(function))
        self.function = _find(function) if isinstance(function, str) else function
        parameters = list(inspect.signature(self.function).parameters.values())
        self.takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self.columns = [p.name for p in parameters[2:]]
        self.required = [p.name for p in parameters[2:] if p.default is p.empty and p.kind is not p.VAR_KEYWORD]

    def __call__(self, prompts: list[str], responses: list[str], columns: Columns) -> list[float]:
        """Scores responses as a whole.

        Args:
            prompts: The last user turn of each conversation.
            responses: The answers.
            columns: The other columns of each row.

        Raises:
            UserError: If the data lack a column that the function needs, or the function returns anything but one
                finite number for each response.
        """
        found = self._rows(prompts, responses, columns)
        return [self._score(*row) for row in zip(found, responses, strict=True)]

    def score(
        self, prompts: list[str], responses: list[str], columns: Columns, num_tokens: list[int]
    ) -> tuple[list[float], list[list[float]] | None]:
        """Scores responses as a whole or by their tokens, depending on the function.

        Args:
            prompts: The last user turn of each conversation.
            responses: The answers.
            columns: The other columns of each row.
            num_tokens: Number of tokens of each response.

        Returns:
            One number for each response as a whole, and one for each of its tokens, or None if the function does not
            score tokens.

        Raises:
            UserError: If the data lack a column that the function needs, or the function returns anything else. Numbers
                after the tokens of a response must be 0.
        """
        found = self._rows(prompts, responses, columns)
        rows = list(zip(found, responses, num_tokens, strict=True))
        if any(isinstance(_plain(row), list | tuple) for row in found):
            return [0.0] * len(rows), [self._token_scores(*row) for row in rows]
        return [self._score(row, response) for row, response, _ in rows], None

    def _rows(self, prompts: list[str], responses: list[str], columns: Columns) -> Sequence[object]:
        """Calls the function and returns its result, one element for each response."""
        known = sorted(set().union(*columns))
        if missing := [name for name in self.required if name not in known]:
            raise UserError(f"{self.name} needs the column {', '.join(missing)}; the data have {', '.join(known)}")
        names = known if self.takes_all else [name for name in self.columns if name in known]
        wanted = {name: [row.get(name) for row in columns] for name in names}
        returned = self.function(prompts, responses, **wanted)
        found = _plain(returned)
        # Dicts, texts, bytes and sets are iterable too, but their elements are not one score for each row.
        if not isinstance(found, list | tuple):
            raise UserError(
                f"{self.name} returned a value of type {type(returned).__name__}; expected a list with one number for "
                "each response"
            )
        if len(found) != len(responses):
            raise UserError(f"{self.name} returned {len(found)} scores for {len(responses)} responses")
        return found

    def _token_scores(self, found: object, response: str, count: int) -> list[float]:
        row = _plain(found)
        if not isinstance(row, list | tuple):
            raise UserError(
                f"{self.name} returned {found!r:.80} for the response {response[:80]!r}, and lists for others: it "
                "scores either each response, or each token"
            )
        scores = [self._score(value, response) for value in row]
        if len(scores) < count:
            raise UserError(
                f"{self.name} returned {len(scores)} numbers for the {count} tokens of the response {response[:80]!r}"
            )
        if any(scores[count:]):
            raise UserError(
                f"{self.name} returned {next(filter(None, scores[count:]))} after the {count} tokens of the response "
                f"{response[:80]!r}: only its tokens can have a score"
            )
        return scores[:count]

    def _score(self, found: object, response: str) -> float:
        score = as_score(_plain(found))
        if score is None:
            raise UserError(
                f"{self.name} returned {found!r:.80} for the response {response[:80]!r}; a score is a finite number"
            )
        return score


def _plain(value: object) -> object:
    """Converts arrays and tensors into lists of numbers, or into a number if they have no dimension."""
    return value.tolist() if hasattr(value, "tolist") else value


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
