"""Two roles hold a conversation, the person first."""

from typing import TYPE_CHECKING, NamedTuple

from lightning_rlhf.chat_models.budget import BudgetSpent, Usage
from lightning_rlhf.chat_models.retry import Stopped
from lightning_rlhf.errors import UserError
from lightning_rlhf.synthesis.roles import Role

if TYPE_CHECKING:
    from lightning_rlhf.data.fields import Message


class Held(NamedTuple):
    """A conversation, as far as it went."""

    messages: "list[Message]"
    """The turns, from the first on; a finished conversation ends with a turn of the assistant, or has no turns."""
    finished: bool
    """Whether nothing is to be added to it."""
    ended: str | None
    """Why it ended before its number of exchanges; None if it did not."""
    usage: Usage
    """The tokens that were used for the turns that were added."""
    error: Exception | None
    """What interrupted it, if it is not finished."""


def hold(person: Role, assistant: Role, topic: str, num_exchanges: int, messages: "list[Message]") -> Held:
    """Continues a conversation until it has a number of exchanges.

    A turn that is empty, or that the limit of its tokens has cut off, is left out and ends the conversation: a model
    that trains on the data would learn to say nothing, or to stop in the middle of a sentence.

    Args:
        person: The role that asks.
        assistant: The role that answers.
        topic: The topic of the conversation.
        num_exchanges: Number of exchanges; each is a turn of the person and one of the assistant.
        messages: The turns that there are already.
    """
    turns, usage = list(messages), Usage()
    while len(turns) < 2 * num_exchanges:
        role = assistant if len(turns) % 2 else person
        try:
            reply = role.reply(turns, topic)
        except (BudgetSpent, Stopped, UserError) as error:
            return Held(turns, False, None, usage, error)
        usage = usage.plus(reply.usage)
        text = reply.text.strip()
        if not (text and reply.whole):
            what = "was cut off by the limit of its tokens" if text else "was empty"
            return Held(_answered(turns), True, f"a turn of the {role.side} {what}", usage, None)
        turns.append({"role": role.side, "content": text})
    return Held(turns, True, None, usage, None)


def _answered(turns: "list[Message]") -> "list[Message]":
    """Leaves out a turn of the person that has no answer."""
    return turns[: len(turns) // 2 * 2]
