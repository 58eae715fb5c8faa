"""Cuts the text of a conversation where turns begin and end, into what the model reads and what it learns to say."""

from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from typing import Literal, NamedTuple, TypeVar

from lightning_rlhf.data.templates import Asked, Turn
from lightning_rlhf.data.thoughts import continued, split_thought
from lightning_rlhf.errors import UserError

T = TypeVar("T")
Texts = Mapping[Asked, str | UserError]


class Piece(NamedTuple):
    """A part of the text of a conversation."""

    text: str
    learnt: bool = False


def cuts(turns: tuple[Turn, ...], tools: str) -> list[Asked]:
    """Returns the prefixes of a prompt that end where an answer begins or ends, and the whole prompt."""
    return [
        *(cut for n in _answers(turns) for cut in (Asked(turns[:n], True, tools), Asked(turns[: n + 1], False, tools))),
        Asked(turns, True, tools),
    ]


def prompt_pieces(turns: tuple[Turn, ...], texts: Texts, tools: str) -> list[str]:
    """Cuts the text of a prompt into prompt, answer, prompt, ..., prompt; one piece if the template rewrites turns."""
    parts = ["", *(or_raise(texts[cut]) for cut in cuts(turns, tools))]
    if not all(after.startswith(before) for before, after in pairwise(parts)):
        return [parts[-1]]
    return [after[len(before) :] for before, after in pairwise(parts)]


def conversation_pieces(
    turns: tuple[Turn, ...],
    texts: Texts,
    tools: str,
    *,
    loss_on: Literal["all", "last"],
    masked: Collection[int] = (),
    learn_reasoning: bool = True,
    stops: Collection[str] = (),
) -> list[Piece]:
    """Cuts the text of a conversation into prompts and answers.

    If the template rewrites earlier answers, the model never reads what it would learn to say there. Only the last
    answer is learnt then.

    Args:
        turns: The conversation, which ends with an answer.
        texts: The texts of its prefixes.
        tools: Descriptions of the tools.
        loss_on: Whether all answers are learnt, or only the last.
        masked: Indices of turns that are not learnt.
        learn_reasoning: Whether thoughts are learnt.
        stops: The tokens that end an answer. If the last answer has none, the space that the template adds after it is
            removed, because EOS will take its place.

    Raises:
        UserError: If there is nothing to learn, or an answer does not begin as the template prompts for it.
    """
    if len(turns) < 2 or turns[-1][0] != "assistant":
        raise UserError("there is no token to learn: the conversation must end with an assistant's answer")
    prompt, whole = prompt_pieces(turns[:-1], texts, tools), or_raise(texts[Asked(turns, False, tools)])
    last = _last_piece("".join(prompt), whole, turns[-1])
    if not any(stop in last for stop in stops):
        last = last.rstrip()
    pieces: list[Piece] = []
    places = iter([*_answers(turns[:-1]), len(turns) - 1])
    for number, text in enumerate([*prompt, last]):
        is_answer = number == len(prompt) or number % 2 == 1
        if not is_answer:
            pieces.append(Piece(text))
            continue
        place = len(turns) - 1 if number == len(prompt) else next(places)
        learnt = place not in masked and (loss_on == "all" or number == len(prompt))
        thought, said = ("", text) if learn_reasoning else split_thought(text, turns[place])
        pieces += [Piece(thought)] * bool(thought) + [Piece(said, learnt)]
    if not any(piece.learnt for piece in pieces):
        raise UserError("there is no token to learn: no answer has a weight above 0, or train: true")
    return pieces


def _last_piece(prompt: str, whole: str, turn: Turn) -> str:
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    answer = continued(prompt, whole, turn)
    if answer is None:
        raise UserError(
            "the chat template does not begin an answer the way its generation prompt does (it prompts with "
            f"{prompt[-60:]!r} and renders {whole[-120:]!r}); set another template"
        )
    return answer


def _answers(turns: tuple[Turn, ...]) -> list[int]:
    # If the assistant speaks first, nothing prompts it, so this greeting is context rather than an answer.
    return [n for n, turn in enumerate(turns) if n and turn[0] == "assistant"]


def or_raise(result: T | UserError) -> T:
    """Returns a result, and raises an error that stands in its place."""
    if isinstance(result, UserError):
        raise result
    return result


def caught(function: Callable[..., T], *arguments: object) -> T | UserError:
    """Calls a function, and returns its `UserError` instead of raising it."""
    try:
        return function(*arguments)
    except UserError as error:
        return error
