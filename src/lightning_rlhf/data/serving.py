"""Checks that a server, which renders conversations with the tokenizer, gives the model the same ids as training."""

from typing import TYPE_CHECKING, Any

from lightning_rlhf.data.messages import Message
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TALK = [
    Message(role="user", content="My kettle leaks.\n\nWhat now?"),
    Message(role="assistant", content="Is it old? Then look at its 2 seals:\n- the lid's\n- the spout's"),
    Message(role="user", content="(It is new!)"),
    Message(role="assistant", content="Take it back."),
    Message(role="user", content="Thanks"),
]


def served_otherwise(renderer: Renderer, tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """Describes how the ids that a tokenizer makes with its chat template differ from those of training.

    A conversation of several turns is compared; if the template accepts no more, a single turn is compared.

    Args:
        renderer: The renderer of the training.
        tokenizer: The tokenizer of the export, which a server uses.

    Returns:
        A description of the first difference; None if there is no difference.
    """
    for talk in (_TALK, _TALK[:1]):
        try:
            trained = renderer.prompt(talk)
        except UserError:
            continue
        messages: Any = talk
        served: Any = tokenizer.apply_chat_template(
            messages, tokenize=True, add_generation_prompt=True, return_dict=False
        )
        if served != trained:
            # If no pair differs, one list is the beginning of the other.
            pairs = enumerate(zip(served, trained, strict=False))
            at = next((n for n, (one, other) in pairs if one != other), min(len(served), len(trained)))
            tokens = [tokenizer.convert_ids_to_tokens(ids[max(0, at - 2) : at + 3]) for ids in (trained, served)]
            return f"training read the tokens {tokens[0]}, where the tokenizer makes {tokens[1]} of the whole text"
    return None
