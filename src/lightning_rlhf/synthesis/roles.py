"""The two roles of a conversation, each with instructions and a window memory of its own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from lightning_rlhf.chat_models.client import ChatClient, Reply

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from lightning_rlhf.data.fields import Message

_BEGIN = "Begin the conversation: write the first thing that you say to the assistant."


class Role:
    """A chat model that plays one side of a conversation.

    For a model, its own turns are those of the assistant, and what the other side says are those of the user.
    """

    def __init__(self, side: Literal["user", "assistant"], instructions: str, client: ChatClient, memory: int) -> None:
        """Stores the settings.

        Args:
            side: Whose turns it writes.
            instructions: Its system prompt, in which `{topic}` stands for the topic of the conversation.
            client: The client of the model.
            memory: Number of exchanges, of two turns each, that it remembers.
        """
        from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder

        self.side, self.client, self.memory = side, client, memory
        self.prompt = ChatPromptTemplate([("system", instructions), MessagesPlaceholder("window")])

    def reply(self, messages: Sequence["Message"], topic: str) -> Reply:
        """Asks for the next turn of this side.

        Args:
            messages: The whole conversation so far.
            topic: Its topic.
        """
        chat = self.prompt.format_messages(topic=topic, window=self.window(messages))
        return self.client.ask(chat)

    def window(self, messages: Sequence["Message"]) -> "list[BaseMessage]":
        """Returns the turns that the role remembers, as its model sees them; they begin with the other side's."""
        from langchain_core.messages import AIMessage, HumanMessage, trim_messages

        seen: list[BaseMessage] = [
            (AIMessage if turn["role"] == self.side else HumanMessage)(turn["content"]) for turn in messages
        ]
        # The person speaks first, but a model expects to be spoken to.
        if self.side == "user":
            seen.insert(0, HumanMessage(_BEGIN))
        # The turn that is answered comes after the exchanges that are remembered.
        return trim_messages(seen, max_tokens=2 * self.memory + 1, token_counter=len, strategy="last", start_on="human")
