"""Answers of two models that are made up, and a chat model that answers from a table."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from lightning_rlhf.evaluation.answers import Answered
from lightning_rlhf.rollout.speaker import Reply


def row(a: str, b: str, prompt: str = "Hello", **columns: Any) -> Answered:
    messages: list[Any] = [{"role": "user", "content": prompt}]
    return Answered(messages, columns, *(Reply(text, len(text.split()), "stop") for text in (a, b)))


class Says(BaseChatModel):
    """A chat model of LangChain whose replies a function of the messages decides."""

    reply: Callable[[Sequence[BaseMessage]], str]
    asked: list[list[BaseMessage]] = []

    @property
    def _llm_type(self) -> str:
        return "says"

    def _generate(self, messages: list[BaseMessage], *args: Any, **settings: Any) -> ChatResult:
        self.asked.append(messages)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(self.reply(messages)))])


@pytest.fixture
def make_row() -> Callable[..., Answered]:
    return row


@pytest.fixture
def make_client() -> Callable[..., Any]:
    from lightning_rlhf.chat_models.client import ChatClient

    def make(reply: Callable[[Sequence[BaseMessage]], str]) -> ChatClient:
        return ChatClient(model=Says(reply=reply, asked=[]), name="says", max_concurrency=1, retries=0)

    return make
