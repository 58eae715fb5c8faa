"""The tokens that end an answer: that of the chat template, and checks of all of them.

The tokenizer must have them, and no turn may begin with them.
"""

import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from lightning_rlhf.data.messages import Message
from lightning_rlhf.errors import UserError, raise_problems

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# No template contains these texts itself.
_FIRST, _ANSWER, _SECOND = "How deep is the well?", "Nine fathoms.", "How wide?"
_TALK = [
    Message(role="user", content=_FIRST),
    Message(role="assistant", content=_ANSWER),
    Message(role="user", content=_SECOND),
]


def end_of_turn(tokenizer: "PreTrainedTokenizerBase", render: Callable[[list[Message], bool], str]) -> int | None:
    """Finds the token with which the chat template ends the last answer, such as `<|im_end|>` of ChatML.

    It is EOS in most chat models. A base model has another EOS, which ends documents.

    Args:
        tokenizer: The tokenizer, which knows all tokens.
        render: Function that turns messages into text, with or without the generation prompt.

    Returns:
        The id of the first control token after the answer; None if there is none.
    """
    added = {token.content: (not token.special, number) for number, token in tokenizer.added_tokens_decoder.items()}
    try:
        behind = render(_TALK[:2], False).partition(_ANSWER)[2]
    except UserError:
        return None
    # An added token that is no control token, such as `</answer>`, may stand before the end of the turn.
    found = sorted((added[token] for token in _tokens(added).findall(behind)), key=lambda one: one[0])
    return found[0][1] if found else None


def check_stops(
    stop_ids: Collection[int], tokenizer: "PreTrainedTokenizerBase", render: Callable[[list[Message], bool], str]
) -> None:
    """Checks the ids that end an answer.

    Args:
        stop_ids: The ids.
        tokenizer: The tokenizer, which knows all tokens.
        render: Function that turns messages into text, with or without the generation prompt.

    Raises:
        UserError: If an id is not a token of the tokenizer, or begins a turn in the chat template.
    """
    known, markers = set(tokenizer.get_vocab().values()), _role_markers(tokenizer, render)
    wrong = {stop: "the tokenizer has no token of this id" for stop in stop_ids if stop not in known}
    wrong |= {
        stop: f"it is {markers[stop]}, with which the chat template begins a turn, so it ends no answer"
        for stop in stop_ids
        if stop in markers
    }
    raise_problems(
        f"stop token {stop}: {reason}; take it out of eos_token_id in the generation_config.json of the model's folder "
        "(config.json, where there is no such file), or set the tokenizer's eos_token"
        for stop, reason in sorted(wrong.items())
    )


def _role_markers(tokenizer: "PreTrainedTokenizerBase", render: Callable[[list[Message], bool], str]) -> dict[int, str]:
    """Finds the tokens with which the chat template begins a turn, by their ids.

    These are the tokens of the generation prompt, and the last token before a question. BOS is left out, since it may
    be EOS. The first token after an answer is left out too: in a template without an end token, such as GLM-4's, the
    marker of the next turn ends the answer.
    """
    ids = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    control = _tokens(ids)
    asked, prompted = render(_TALK[:1], False), render(_TALK[:1], True)
    found = control.findall(asked.partition(_FIRST)[0])[-1:]
    if prompted.startswith(asked):
        found += control.findall(prompted[len(asked) :])
    try:
        behind_answer = control.findall(render(_TALK, False).partition(_ANSWER)[2])[:1]
    except UserError:
        behind_answer = []
    return {ids[token]: token for token in found if token not in (tokenizer.bos_token, *behind_answer)}


def _tokens(texts: Collection[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")
