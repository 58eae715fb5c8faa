"""The texts with which a user personalises what models are asked, in a file such as `templates.yaml`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from string import Formatter
from typing import Any

import yaml

from lightning_rlhf.chat_models.grading import RUBRIC
from lightning_rlhf.errors import UserError, raise_problems

_PERSON = """You play a person who talks to an assistant: someone with a real need, an everyday way of writing, and
questions of your own. Topic: {topic}.
Write only what the person says next, in one to four sentences. React to what the assistant has said: ask for details,
disagree, or go on to something related. Never speak as the assistant, and never say that you are a model."""
_ASSISTANT = """You are a helpful assistant. Answer the person correctly and to the point. Say so if you do not know
something, ask back if the question is unclear, and refuse politely what would do harm."""
_ANY_TOPIC = "anything that people ask an assistant about; choose one topic and stay with it"


@dataclass(frozen=True)
class Templates:
    """What the roles, the data and the judge are told.

    Attributes:
        person: The instructions of the role that asks; `{topic}` stands for the topic of the conversation.
        assistant: The instructions of the role that answers; `{topic}` is allowed too.
        actor: The system turn of each demonstration and of each answer to score; empty for none.
        rlhf: The system turn of each prompt; empty for none.
        reward: The criteria of the judge, or a whole question with `{user_input}` and `{completion}` in it.
        topics: The topics of the conversations, one after the other and then from the start again.
    """

    person: str = _PERSON
    assistant: str = _ASSISTANT
    actor: str = ""
    rlhf: str = ""
    reward: str = RUBRIC
    topics: tuple[str, ...] = (_ANY_TOPIC,)

    def topic(self, number: int) -> str:
        """Returns the topic of a conversation, which are numbered from 0."""
        return self.topics[number % len(self.topics)]


def read_templates(file: str | None) -> Templates:
    """Reads templates. What a file leaves out has its default.

    Args:
        file: A YAML or JSON file with the names of `Templates`; None takes all defaults.

    Raises:
        UserError: If the file cannot be read, or does not contain such templates.
    """
    if file is None:
        return Templates()
    try:
        content = yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"templates={file}: cannot be read: {error}") from error
    if not isinstance(content, Mapping):
        raise UserError(f"templates={file}: expected names with texts, such as 'reward: how polite the answer is'")
    raise_problems(f"templates={file}: {problem}" for problem in _problems(content))
    chosen: dict[str, Any] = {name: tuple(value) if name == "topics" else value for name, value in content.items()}
    return Templates(**chosen)


def _problems(content: Mapping[object, object]) -> list[str]:
    known = [field.name for field in fields(Templates)]
    problems = [f"there is no template {name!r}; there are {', '.join(known)}" for name in content if name not in known]
    for name, value in content.items():
        if name == "topics":
            texts = value if isinstance(value, list) else []
            if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
                problems.append("topics must be a list of texts that are not empty")
        elif name in known and not isinstance(value, str):
            problems.append(f"{name} must be a text, found {str(value)[:60]!r}")
        elif name in ("person", "assistant"):
            problems += _places(str(name), str(value))
    return problems


def _places(name: str, text: str) -> list[str]:
    """Mistakes in the places of a template that are filled in."""
    try:
        places = {place for _, place, _, _ in Formatter().parse(text) if place is not None}
    except ValueError as error:
        return [f"{name}: {error}; write a brace that is text as {{{{ or }}}}"]
    if others := sorted(places - {"topic"}):
        return [
            f"{name} has {{{others[0]}}}, but only {{topic}} is filled in; write a brace that is text as {{{{ or }}}}"
        ]
    return []
