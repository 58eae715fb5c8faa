"""A server that speaks OpenAI's protocol, and clients of it."""

from openai_server import make_client, server

__all__ = ["make_client", "server"]
