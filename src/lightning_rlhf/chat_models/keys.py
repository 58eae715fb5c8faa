"""The keys of providers: where they are, what may carry them, and how they stay out of files and messages."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lightning_rlhf.errors import UserError

_SECRET = re.compile(r"(api[-_]?key|authorization|token|password|secret)$", re.IGNORECASE)
_KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}


def clear_keys(settings: Mapping[str, Any], group: str) -> Iterator[str]:
    """Yields a message for each key among the settings of a model, also in a header. It does not show the key."""
    for name in _secrets(settings):
        yield (
            f"{group}.settings.{name}: a key in the settings is written to files in clear; put it into an environment "
            f"variable, and name this as {group}.api_key_env=NAME"
        )


def _secrets(settings: Mapping[str, Any]) -> Iterator[str]:
    """The names of settings that hold a key; `none` is the key of a server that asks for none."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from (f"{name}.{inner}" for inner in _secrets(value))
        elif _SECRET.search(str(name)) and value not in (None, "none"):
            yield str(name)


def key_of(model: str, given: Mapping[str, Any], api_key_env: str | None, group: str) -> str:
    """Finds the key of a provider, and checks it, because LangChain says so late, or in words of Python.

    Args:
        model: `provider:name`.
        given: Arguments of the provider's class.
        api_key_env: Name of an environment variable that contains the key; None for the provider's own.
        group: Name of the group of these settings, for messages.

    Returns:
        The key; an empty text if there is none, or if it is not where it is known to be.

    Raises:
        UserError: If a variable with a key is missing, or no header can carry the key.
    """
    provider = model.partition(":")[0]
    name = api_key_env or _KEYS.get(provider) or f"{provider.upper()}_API_KEY"
    key = os.environ.get(name, "")
    if api_key_env is not None and not key:
        raise UserError(f"{group}.api_key_env={api_key_env}: there is no such environment variable")
    if provider in _KEYS and not key and not any(n.endswith(("api_key", "base_url")) for n in given):
        raise UserError(
            f"model={model}: the environment variable {name} is not set; it must contain the key of the provider, "
            f"or {group}.api_key_env must name another one"
        )
    if not (key.isascii() and key.isprintable()):
        raise UserError(
            f"model={model}: the key in the environment variable {name} has characters that no header can carry"
        )
    return key


def masked(text: str, key: str) -> str:
    """What a provider says, without the key, which it may repeat."""
    return text.replace(key, "***") if key else text
