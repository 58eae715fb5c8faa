"""Rules that verify a response: 1 if it is right, 0 if it is not. Each serves as the function of a `TextReward`.

A check that is more than a comparison, such as running tests on code in a response, needs a function of your own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from math import isnan
from typing import Literal

from lightning_rlhf.errors import UserError

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


@dataclass(frozen=True)
class ExactAnswer:
    r"""Checks whether the response gives the answer in a column of the data.

    Whitespace and case are ignored, and numbers are compared as numbers: "1,000.0" equals 1000.

    Example:
        >>> ExactAnswer(pattern=r"#### *(.+)")(["2 + 2?"], ["That makes\n#### 4"], answer=["4.0"])
        [1.0]
    """

    column: str = "answer"
    """Column of the right answers, which are texts or numbers."""
    pattern: str | None = None
    r"""Regular expression that finds the answer: the first group of its last match, or the whole match if it has no
    group. It is applied to the column too, if it matches there. None takes the whole text."""

    def __post_init__(self) -> None:
        """Checks the pattern."""
        _check(self.pattern or "")

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], **columns: Sequence[object]) -> list[float]:
        """Scores responses.

        Raises:
            UserError: If the data have no such column, or a row has neither a text nor a number in it.
        """
        if self.column not in columns:
            raise UserError(f"column={self.column}: the data have {', '.join(columns) or 'no other columns'}")
        answers = columns[self.column]
        for prompt, answer in zip(prompts, answers, strict=True):
            if not _is_answer(answer):
                raise UserError(
                    f"column={self.column}: {answer!r:.80} for the prompt {prompt[:80]!r}; expected a text or a number"
                )
        return [
            float(self._given(response) == _comparable(self._found(str(answer)) or str(answer)))
            for response, answer in zip(responses, answers, strict=True)
        ]

    def _given(self, response: str) -> str | Decimal | None:
        found = self._found(response)
        return None if found is None else _comparable(found)

    def _found(self, text: str) -> str | None:
        if self.pattern is None:
            return text
        matches = list(re.finditer(self.pattern, text))
        if not matches:
            return None
        return matches[-1][1 if matches[-1].re.groups else 0]


@dataclass(frozen=True)
class Pattern:
    r"""Checks whether a regular expression is found in the response, or is absent from it.

    Example:
        >>> Pattern(r"(?i)\bsorry\b", wanted=False)(["Hello"], ["Sorry, no."])
        [0.0]
    """

    pattern: str
    """Regular expression, which may match anywhere in the response; `^` and `$` anchor it to the ends."""
    wanted: bool = True
    """Whether a match is right (True) or wrong (False)."""

    def __post_init__(self) -> None:
        """Checks the pattern."""
        _check(self.pattern)

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Scores responses."""
        return [float((re.search(self.pattern, response) is not None) == self.wanted) for response in responses]


@dataclass(frozen=True)
class Length:
    """Checks whether the length of the response lies within bounds, inclusively.

    Example:
        >>> Length(minimum=2, maximum=4, unit="words")(["Hello"], ["Hello to you"])
        [1.0]
    """

    minimum: int = 0
    maximum: int | None = None
    """Upper bound; None for no bound."""
    unit: Literal["characters", "words"] = "words"
    """Unit of the length; words are separated by whitespace."""

    def __post_init__(self) -> None:
        """Checks that some length lies within the bounds."""
        if self.maximum is not None and self.maximum < self.minimum:
            raise UserError(f"maximum={self.maximum}: less than minimum={self.minimum}, so no response would be right")

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Scores responses."""
        lengths = [len(response.split() if self.unit == "words" else response) for response in responses]
        most = float("inf") if self.maximum is None else self.maximum
        return [float(self.minimum <= length <= most) for length in lengths]


def _is_answer(answer: object) -> bool:
    """Checks whether a cell contains an answer; an empty text does not, nor does NaN, which can mean an empty cell."""
    if isinstance(answer, str):
        return bool(answer.strip())
    return isinstance(answer, int | Decimal) or (isinstance(answer, float) and not isnan(answer))


def _comparable(text: str) -> str | Decimal:
    """Returns the number that the text spells, or else the text in lower case with single spaces."""
    words = " ".join(text.split()).casefold()
    try:
        number = Decimal(_THOUSANDS.sub("", words))
    except InvalidOperation:
        return words
    return number if number.is_finite() else words


def _check(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"pattern={pattern}: not a regular expression: {error}") from error
