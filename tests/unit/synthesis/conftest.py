"""A server that speaks OpenAI's protocol, and a client of it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai_server import OpenAIServer, serving

from lightning_rlhf.chat_models.budget import Budget
from lightning_rlhf.chat_models.client import ChatClient, remote_client


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    """Starts a real server on a free port."""
    with serving() as server:
        yield server


@pytest.fixture
def make_client(server: OpenAIServer) -> Callable[..., ChatClient]:
    """Makes clients of the server."""

    def make(max_concurrency: int = 4, budget: Budget | None = None) -> ChatClient:
        made = remote_client("openai:some-model", base_url=server.url, settings={"api_key": "none"})
        return ChatClient(
            model=made.model,
            name=made.name,
            max_concurrency=max_concurrency,
            retries=2,
            backoff=0.01,
            budget=budget or Budget(),
        )

    return make


@pytest.fixture
def llm(server: OpenAIServer) -> dict[str, Any]:
    """The node of the group `llm` for the server, as a command gets it."""
    return {
        "_target_": "lightning_rlhf.chat_models.client.remote_client",
        "model": "openai:some-model",
        "base_url": server.url,
        "settings": {"api_key": "none"},
        "max_concurrency": 4,
    }
