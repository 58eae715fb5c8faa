"""A trained model that answers conversations: all of a list at once, or one of them token by token."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from transformers import PretrainedConfig, PreTrainedModel

from lightning_rlhf.data.messages import Message
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.engines.engine import FinishReason, Request
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.rollout.texts import decoder
from lightning_rlhf.seeding import RandomKey

# This character stands for the bytes of an incomplete character.
_INCOMPLETE = "\ufffd"


class Reply(NamedTuple):
    """An answer, or the beginning of one that is still being drawn."""

    text: str
    num_tokens: int
    """Number of tokens so far, the stop token counted."""
    finish_reason: FinishReason | None
    """`stop` for a stop token, `length` for the length limit, None if the answer goes on."""


@dataclass(frozen=True)
class Speaker:
    """A trained model with what it needs to answer.

    Attributes:
        name: Name of the model for people: the folder or hub name that it was loaded from.
        net: The model, in evaluation mode.
        renderer: Turns conversations into the ids that the model was trained on.
        engine: Draws the answers.
    """

    name: str
    net: PreTrainedModel
    renderer: Renderer
    engine: NativeEngine

    def answers(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        keys: Sequence[RandomKey],
        tools: Sequence[list[Any]] | None = None,
    ) -> Iterator[tuple[int, Reply]]:
        """Answers conversations, and yields the index of each with its answer as soon as the answer has ended.

        Args:
            conversations: Conversations that end with a turn of the user.
            sampling: Settings of the sampling distribution.
            keys: The random numbers of each conversation.
            tools: Descriptions of the tools of each conversation, if there are any.

        Raises:
            UserError: If the template refuses a conversation, or the model cannot read it together with an answer of
                the full length.
        """
        requests = []
        limit = most_tokens(self.net.config)
        prompts = fitting_prompts(self.name, self.renderer, limit, conversations, sampling.max_new_tokens, tools)
        for prompt, key in zip(prompts, keys, strict=True):
            if isinstance(prompt, UserError):
                raise prompt
            requests.append(Request(prompt, key))
        completions = self.engine.iterate(
            requests, sampling, stop_ids=self.renderer.stop_ids, decode=decoder(self.renderer)
        )
        for each in completions:
            yield each.request, Reply(self.renderer.decode(each.ids), len(each.ids), each.finish_reason)

    def stream(self, messages: Sequence[Message], sampling: Sampling, key: RandomKey) -> Iterator[Reply]:
        """Yields the answer to a conversation again and again as it grows; the text of each begins with the one before.

        The length limit is lowered to what the model can read after the conversation.

        Args:
            messages: A conversation that ends with a turn of the user.
            sampling: Settings of the sampling distribution.
            key: The random numbers of the answer.

        Raises:
            UserError: If the template refuses the conversation, or the model cannot read it.
        """
        prompt = self.renderer.prompt(messages)
        room = self.room(prompt)
        if room < 1:
            raise UserError(
                f"the conversation has {len(prompt)} tokens, and {self.name} reads at most {room + len(prompt)}: take "
                "back a turn, or begin a new conversation"
            )
        limited = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, room))
        ids: list[int] = []
        tokens = self.engine.stream(
            Request(prompt, key), limited, stop_ids=self.renderer.stop_ids, decode=decoder(self.renderer)
        )
        for token in tokens:
            ids.append(token.id)
            text = self.renderer.decode(ids)
            if token.finish_reason or not text.endswith(_INCOMPLETE):
                yield Reply(text, len(ids), token.finish_reason)

    def room(self, prompt: Sequence[int]) -> int:
        """Returns how many tokens the model can read after a prompt; negative if it cannot read the prompt."""
        return most_tokens(self.net.config) - len(prompt)


def most_tokens(config: PretrainedConfig) -> int:
    """Returns how many tokens a model can read."""
    return getattr(config, "max_position_embeddings", None) or 2**31


def fitting_prompts(
    name: str,
    renderer: Renderer,
    limit: int,
    conversations: Sequence[Sequence[Message]],
    max_new_tokens: int,
    tools: Sequence[list[Any]] | None = None,
) -> list[list[int] | UserError]:
    """Renders conversations for a model; this takes no weights.

    Args:
        name: Name of the model.
        renderer: Turns conversations into the ids that the model was trained on.
        limit: How many tokens the model can read.
        conversations: Conversations that end with a turn of the user.
        max_new_tokens: Length limit of an answer.
        tools: Descriptions of the tools of each conversation, if there are any.

    Returns:
        The ids of each; the error of one that the template refuses, or that leaves no room for an answer of the full
        length.
    """
    prompts = renderer.prompts(conversations, tools)
    for number, (messages, prompt) in enumerate(zip(conversations, prompts, strict=True)):
        if not isinstance(prompt, UserError) and limit - len(prompt) < max_new_tokens:
            prompts[number] = UserError(
                f"sampling.max_new_tokens={max_new_tokens}: {name} reads at most {limit} tokens, and a prompt has "
                f"{len(prompt)}: allow shorter answers, or leave out the prompt {messages[-1]['content'][:80]!r}"
            )
    return prompts


def load_speaker(folder: str, setting: str, *, dtype: str = "float32", template: str | None = None) -> Speaker:
    """Loads an exported model, or one of the hub, on the GPU if there is one.

    Args:
        folder: Folder of an export, or a hub name.
        setting: Name of `folder` in error messages.
        dtype: Data type of the weights.
        template: Chat template: `plain`, `raw`, the path of a file, or Jinja text; None takes the tokenizer's.

    Raises:
        UserError: If the folder does not hold a causal language model with a tokenizer.
    """
    return speaker_of(ModelSource(pretrained=folder, dtype=dtype, setting=setting), folder, template)


def speaker_of(source: ModelSource, name: str, template: str | None, *, max_rows: int = 64) -> Speaker:
    """Loads a model with its tokenizer, on the GPU if there is one.

    Args:
        source: The model.
        name: Name of the model for people.
        template: Chat template, as `load_speaker` takes it.
        max_rows: Number of answers that are drawn at a time.

    Raises:
        UserError: If the model cannot be loaded.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net: Any = load_causal_lm(source)
    net.to(device).eval()
    renderer = Renderer(source.load_tokenizer(), template, stop_ids=source.stop_ids())
    return Speaker(name, net, renderer, NativeEngine(net, device, max_rows=max_rows))
