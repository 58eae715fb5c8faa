"""Transcripts as in Anthropic's hh-rlhf, whose turns begin with "Human:" or "Assistant:" after a blank line."""

import re

from lightning_rlhf.data.messages import Message


def is_transcript(text: str) -> bool:
    """Checks whether a text is a transcript rather than a question."""
    return text.lstrip().startswith("Human:") and "\n\nAssistant:" in text


def transcript(text: str) -> list[Message]:
    """Splits a transcript into turns; one that is a prompt ends with an empty turn of the assistant."""
    _, *parts = re.split(r"(?:\A|\n\n)(Human|Assistant):", text.strip())
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": "user" if who == "Human" else "assistant", "content": said.strip()} for who, said in turns]
