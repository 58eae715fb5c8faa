"""A server that speaks OpenAI's protocol, and clients of it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai_server import OpenAIServer, serving

from lightning_rlhf.chat_models.client import ChatClient, remote_client

MakeClient = Callable[..., ChatClient]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    """Starts a real server on a free port."""
    with serving() as server:
        yield server


@pytest.fixture
def make_client(server: OpenAIServer) -> MakeClient:
    """Makes clients of the server that hardly wait before they ask again."""

    def make(budget: Any = None, backoff: float = 0.01, **settings: Any) -> ChatClient:
        own = settings.pop("settings", {})
        client = remote_client(
            "openai:some-model", base_url=server.url, settings={"api_key": "none", **own}, **settings
        )
        given = {} if budget is None else {"budget": budget}
        return ChatClient(
            model=client.model,
            name=client.name,
            max_concurrency=client.max_concurrency,
            retries=client.retries,
            backoff=backoff,
            **{"budget": client.budget, **given},
        )

    return make
