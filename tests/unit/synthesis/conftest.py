"""A server that speaks OpenAI's protocol, clients of it, and the settings of a command that uses it."""

from typing import Any

import pytest
from openai_server import OpenAIServer, make_client, server

__all__ = ["llm", "make_client", "server"]


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
