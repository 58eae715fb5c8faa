"""Answers with thoughts, as reasoning models write them: `<think>`, a thought, `</think>`, and what the user reads."""

import json
import re

from lightning_rlhf.data.templates import Turn

REASONING = ("reasoning_content", "reasoning", "thinking")
"""The names that templates have for the thought of a turn."""

_END = "</think>"
_BEGINS = re.compile(r"\A<think>\s*")
_EMPTY = re.compile(r"\A<think>\s*</think>\s*")
# What a generation prompt may end with, beside the beginning of the answer: an open thought, or an empty one.
_PROMPTS = re.compile(r"<think>\s*(?P<closed></think>\s*)?\Z")


def opens_thought(prompt: str) -> bool:
    """Checks whether a generation prompt ends within a thought."""
    found = _PROMPTS.search(prompt)
    return found is not None and not found["closed"]


def continued(prompt: str, whole: str, turn: Turn) -> str | None:
    """Returns how an answer continues a generation prompt that begins a thought.

    The templates of DeepSeek R1 and QwQ prompt with `<think>`, but render an answer without its thought. The thought
    then comes from the data. If there is none, it is empty, as in the template of Qwen 3.

    Args:
        prompt: Text of the prompt, including the generation prompt.
        whole: Text of the whole conversation, which does not begin with the prompt.
        turn: The answer.

    Returns:
        The text after the prompt; None if the template differs in another way.
    """
    found = _PROMPTS.search(prompt)
    if found is None or not whole.startswith(prompt[: found.start()]):
        return None
    answer = whole[found.start() :]
    if found["closed"]:
        answer = _EMPTY.sub("", answer)
        return None if _END in answer else answer
    if _END in answer:
        return _BEGINS.sub("", answer)
    return f"{thought_of(turn)}\n{_END}\n\n{answer.lstrip()}"


def thought_of(turn: Turn) -> str:
    """Returns the thought of an answer: its `reasoning_content`, or what its content puts before `</think>`."""
    others = json.loads(turn[2]) if len(turn) > 2 else {}
    if given := next((str(others[key]).strip() for key in REASONING if others.get(key)), ""):
        return given
    thought, end, _ = turn[1].partition(_END)
    return _BEGINS.sub("", thought.strip()).strip() if end else ""


def without_thought(answer: str) -> str:
    """Returns what the user reads of an answer."""
    return answer.rpartition(_END)[2].strip()


def split_thought(answer: str, turn: Turn) -> tuple[str, str]:
    """Splits the rendered text of an answer where its thought has ended; the first part is empty without a thought."""
    content = without_thought(turn[1])
    place = answer.rfind(content) if content else len(answer)
    if place <= 0 or not (_END in answer[:place] or thought_of(turn)):
        return "", answer
    return answer[:place], answer[place:]
