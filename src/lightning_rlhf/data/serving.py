"""Sees that a server, which lets the tokenizer render a conversation, gives a model the ids that it was trained on."""

from typing import TYPE_CHECKING, Any

from lightning_rlhf.data.fields import Message
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
    """How the prompts that a tokenizer makes by its chat template differ from those of training, if they do.

    Several turns are tried, and a single one where the template takes no more.

    Args:
        renderer: Makes the ids of training.
        tokenizer: What is served with: that of the export.
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
            # Where one ends first, all of it agrees.
            pairs = enumerate(zip(served, trained, strict=False))
            at = next((n for n, (one, other) in pairs if one != other), min(len(served), len(trained)))
            tokens = [tokenizer.convert_ids_to_tokens(ids[max(0, at - 2) : at + 3]) for ids in (trained, served)]
            return f"training read the tokens {tokens[0]}, where the tokenizer makes {tokens[1]} of the whole text"
    return None
