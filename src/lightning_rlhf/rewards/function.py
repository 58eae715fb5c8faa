"""Scores from a Python function of texts: verifiable rewards, rules, servers, judges, and the gold metric."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, cast

from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.rewards.call import Call
from lightning_rlhf.rewards.check import as_score
from lightning_rlhf.rewards.remote import Remote, remote_of
from lightning_rlhf.user_code import import_module, place_of
from lightning_rlhf.waiting import LONGEST

log = logging.getLogger(__name__)

ScoreFunction = Callable[..., Sequence[object]]
"""Returns a number for each response. The function of a reward may return a list of numbers, one for each token."""

Columns = Sequence[Mapping[str, object]]
"""The other columns of each row, by name."""


class TextScores(NamedTuple):
    """What a function of texts says about B responses."""

    whole: list[float | None]
    """A number for each response as a whole; None if the function has no score for it."""
    tokens: list[list[float]] | None = None
    """A number for each token of each response; None if the function does not score tokens."""
    dropped: list[bool] | None = None
    """Whether the function failed for the response, which is then dropped; None unless failures drop responses."""


class TextReward:
    """Calls `function(prompts, responses, **columns)` and checks the result.

    The function gets two lists of texts, and the other columns of the data that its signature names. Each column is a
    list, with None where a row has no value. The function returns a list, a tuple or a one-dimensional array with one
    number for each response; True counts as 1 and False as 0. A reward may score tokens instead: it then returns for
    each response a list, or a row of a two-dimensional array, with one number for each of its tokens. In a sum, None
    means that the function has no score for a response.

    Example:
        >>> TextReward(lambda prompts, responses: [float(len(r) < 80) for r in responses])
        >>> TextReward("my_package.rewards:exact_answer")
    """

    def __init__(
        self,
        function: str | ScoreFunction,
        timeout: float | None = None,
        on_error: Literal["stop", "drop"] = "stop",
    ) -> None:
        """Stores the function.

        Args:
            function: The function, or its name `module:function`.
            timeout: Seconds that a call may take; None for any time. The function is then called in threads of its own.
            on_error: What PPO does where the function fails for a response: stop the run, or drop the response.

        Raises:
            UserError: If there is no such function, it cannot be called with prompts and responses, or a setting is
                wrong.
        """
        raise_problems(
            [f"timeout={timeout}: must be from 0.001 to {LONGEST:g}, or null"]
            * (timeout is not None and not 1e-3 <= timeout <= LONGEST)
            + [f"on_error={on_error}: must be stop or drop"] * (on_error not in ("stop", "drop"))
        )
        self.name = function if isinstance(function, str) else getattr(function, "__name__", repr(function))
        self.function = _find(function) if isinstance(function, str) else function
        self.timeout, self.on_error = timeout, on_error
        self.place = place_of(self.function)
        parameters = _parameters(self.function, self.name)
        self.takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self.columns = [p.name for p in parameters[2:]]
        self.required = [p.name for p in parameters[2:] if p.default is p.empty and p.kind is not p.VAR_KEYWORD]

    @property
    def remote(self) -> Remote | None:
        """What the function says of itself; see `Remote`."""
        return remote_of(self.function)

    def __call__(self, prompts: list[str], responses: list[str], columns: Columns) -> list[float]:
        """Scores responses as a whole.

        Args:
            prompts: The last user turn of each conversation.
            responses: The answers.
            columns: The other columns of each row.

        Raises:
            UserError: If the data lack a column that the function needs, the function raises an error, or it returns
                anything but one finite number for each response.
        """
        call = self._call(prompts, responses, columns)
        return [self._number(found, call, row) for row, found in enumerate(self._returned(call))]

    def score(self, prompts: list[str], responses: list[str], columns: Columns, num_tokens: list[int]) -> TextScores:
        """Scores responses as a whole or by their tokens, depending on the function.

        Args:
            prompts: The last user turn of each conversation.
            responses: The answers.
            columns: The other columns of each row.
            num_tokens: Number of tokens of each response.

        Returns:
            The scores. With `on_error=drop`, a response for which the function fails is marked as dropped.

        Raises:
            UserError: If the data lack a column that the function needs; without `on_error=drop` also if the function
                raises an error, or it returns anything else. Numbers after the tokens of a response must be 0.
        """
        call = self._call(prompts, responses, columns)
        try:
            found = self._returned(call)
        except UserError as error:
            self._drop(error, len(responses))
            return TextScores([None] * len(responses), dropped=[True] * len(responses))
        by_token = any(isinstance(_plain(value), list | tuple) for value in found)
        read, errors = list[tuple[float | None, list[float]]](), dict[int, UserError]()
        for row, (value, count) in enumerate(zip(found, num_tokens, strict=True)):
            try:
                read.append(self._read(value, call, row, count, by_token=by_token))
            except UserError as error:
                read.append((None, [0.0] * count))
                errors[row] = error
        if errors:
            self._drop(next(iter(errors.values())), len(errors))
        dropped = [row in errors for row in range(len(found))]
        tokens = [scores for _, scores in read] if by_token else None
        return TextScores([score for score, _ in read], tokens, dropped if self.on_error == "drop" else None)

    def _read(
        self, value: object, call: Call, row: int, count: int, *, by_token: bool
    ) -> tuple[float | None, list[float]]:
        """The score of a response as a whole, and those of its tokens."""
        if value is None:
            return None, [0.0] * count
        return (0.0, self._token_scores(value, call, row, count)) if by_token else (self._number(value, call, row), [])

    def _drop(self, error: UserError, count: int) -> None:
        """Says that responses are dropped, and why.

        Raises:
            UserError: The error, if it is to stop the run.
        """
        if self.on_error == "stop":
            raise error
        log.warning("on_error=drop: %s dropped, because %s", f"{count} response{'s are' * (count > 1) or ' is'}", error)

    def _call(self, prompts: list[str], responses: list[str], columns: Columns) -> Call:
        """The call with the columns that the function takes."""
        known = sorted(set().union(*columns))
        if missing := [name for name in self.required if name not in known]:
            raise UserError(f"{self.name} needs the column {', '.join(missing)}; the data have {', '.join(known)}")
        names = known if self.takes_all else [name for name in self.columns if name in known]
        wanted = {name: [row.get(name) for row in columns] for name in names}
        return Call(self.function, self.name, prompts, responses, wanted, self.timeout)

    def _returned(self, call: Call) -> Sequence[object]:
        """Calls the function and returns its result, one element for each response."""
        returned = call()
        found = _plain(returned)
        # Dicts, texts, bytes and sets are iterable too, but their elements are not one score for each row.
        if not isinstance(found, list | tuple):
            if call.takes_one_response():
                raise call.one_by_one()
            raise UserError(
                f"{self.name} returned a value of type {type(returned).__name__}; expected a list with one number for "
                f"each response{self.place}"
            )
        if len(found) != len(call.responses):
            raise UserError(f"{self.name} returned {len(found)} scores for {len(call.responses)} responses{self.place}")
        return found

    def _token_scores(self, found: object, call: Call, row: int, count: int) -> list[float]:
        values = _plain(found)
        if not isinstance(values, list | tuple):
            raise UserError(
                f"{self.name} returned {found!r:.80} for {call.response(row)}, and lists for others: it scores either "
                "each response, or each token"
            )
        scores = [self._number(value, call, row) for value in values]
        if len(scores) < count:
            raise UserError(
                f"{self.name} returned {len(scores)} numbers for the {count} tokens of {call.response(row)}"
            )
        if any(scores[count:]):
            raise UserError(
                f"{self.name} returned {next(filter(None, scores[count:]))} after the {count} tokens of "
                f"{call.response(row)}: only its tokens can have a score"
            )
        return scores[:count]

    def _number(self, found: object, call: Call, row: int) -> float:
        score = as_score(_plain(found))
        if score is None:
            raise UserError(
                f"{self.name} returned {found!r:.80} for {call.response(row)}; a score is a finite number{self.place}"
            )
        return score


def _plain(value: object) -> object:
    """Converts arrays and tensors into lists of numbers, or into a number if they have no dimension."""
    return value.tolist() if hasattr(value, "tolist") else value


def _parameters(function: ScoreFunction, name: str) -> list[inspect.Parameter]:
    """The parameters of a function that can be called with prompts and responses.

    Raises:
        UserError: If it cannot.
    """
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    try:
        signature.bind_partial([], [])
    except TypeError as error:
        raise UserError(
            f"{name}{signature}: must take a list of prompts and a list of responses first, as in "
            "def score(prompts, responses, answer)"
        ) from error
    return parameters


def _find(name: str) -> ScoreFunction:
    module_name, _, function_name = name.partition(":")
    if not function_name:
        raise UserError(f"{name!r} is not a function: write module:function, such as my_package.rewards:exact_answer")
    function = getattr(import_module(module_name, repr(name)), function_name, None)
    if not callable(function):
        raise UserError(f"{name!r}: module {module_name!r} has no function {function_name!r}")
    return cast(ScoreFunction, function)
