"""The chat model of a command: from the group `llm` of its configuration to a client with a budget."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.library_messages import silence_libraries
from lightning_rlhf.assembly.target_checks import check_targets
from lightning_rlhf.chat_models.budget import Budget
from lightning_rlhf.chat_models.client import ChatClient
from lightning_rlhf.errors import UserError

_LOCAL = "lightning_rlhf.synthesis.local.local_client"


def arguments_with_llm(config: DictConfig, target: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of a command that has a chat model, checked as keyword arguments of the function that it calls.

    The groups and settings that only describe the chat model are left out.

    Args:
        config: The configuration of the command.
        target: Dotted name of the function.
        overrides: The settings of the command line.

    Raises:
        UserError: If the function has no parameter of that name, a value has the wrong type, or the command line has
            settings of a local model and another one is asked.
    """
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    if settings["llm"]["_target_"] != _LOCAL:
        unused = [given for given in overrides if re.match(r"\+*(model|seed)[.=]", given)]
        if unused:
            raise UserError(f"{', '.join(unused)}: this describes the model of llm=local alone: leave it out")
    own = {name: value for name, value in settings.items() if name not in ("model", "seed")}
    check_targets({"_target_": target, **own})
    return own


def client_with_budget(llm: dict[str, Any], max_usd: float | None, max_tokens: int | None) -> ChatClient:
    """Makes the client of a chat model.

    Args:
        llm: The node of the group `llm`.
        max_usd: What its requests may cost, in US dollars.
        max_tokens: What its requests may use, in tokens.

    Raises:
        UserError: If the model cannot be made, or the budget has no prices.
    """
    if llm["_target_"] == _LOCAL:
        # Not for other models, because it imports transformers.
        silence_libraries()
    client: ChatClient = instantiate(llm)
    return replace(client, budget=Budget(max_usd, max_tokens, client.budget.prices))
