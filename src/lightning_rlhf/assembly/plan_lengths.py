"""The lengths with which a stage is planned, and the settings that they come from."""

from typing import NamedTuple

from omegaconf import DictConfig

from lightning_rlhf.errors import UserError
from lightning_rlhf.stages import StageRecord


class Lengths(NamedTuple):
    """Lengths in tokens."""

    prompt: int
    """0 if a row is one text."""
    response: int
    source: str
    """What the lengths are and where they come from, in words."""


def lengths(config: DictConfig, record: StageRecord) -> Lengths:
    """Lengths of prompt and response: those that the user asks for, or the longest that are allowed.

    Args:
        config: The configuration of a stage.
        record: The record of the stage.

    Raises:
        UserError: If the user gives only one length, but a row of the stage consists of both.
    """
    prompt, response = config.get("prompt_length"), config.get("response_length")
    block = config[record.block]
    if record.samples:
        asked, answered = "prompt_length", "response_length"
        if prompt is None:
            prompt, asked = block.data.max_prompt_length, f"at most; {record.block}.data.max_prompt_length"
        if response is None:
            response = block.module.sampling.max_new_tokens
            answered = f"at most; {record.block}.module.sampling.max_new_tokens"
        return Lengths(prompt, response, f"prompts of {prompt} tokens ({asked}), responses of {response} ({answered})")
    if (prompt is None) != (response is None):
        given = f"prompt_length={prompt}" if response is None else f"response_length={response}"
        raise UserError(f"{given}: a row of stage={record.name} has a prompt and a response: give both lengths")
    if prompt is not None and response is not None:
        source = f"prompts of {prompt} tokens and responses of {response} (prompt_length, response_length)"
        return Lengths(prompt, response, source)
    # The longest answer has a prompt of one token.
    least, longest = 1 if record.reads == "answers" else 0, block.data.max_length
    return Lengths(least, longest - least, f"rows of {longest} tokens (at most; {record.block}.data.max_length)")
