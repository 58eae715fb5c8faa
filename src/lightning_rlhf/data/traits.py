"""What a chat template does with messages, found in its syntax and by trying it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, pairwise

from jinja2 import Environment, TemplateSyntaxError, nodes

from lightning_rlhf.data.messages import Message, Role
from lightning_rlhf.data.thoughts import opens_thought
from lightning_rlhf.errors import UserError

Render = Callable[[list[Message], bool], str]

# No template contains these texts itself.
_SYSTEM, _FIRST, _ANSWER, _SECOND = "Speak of wells.", "How deep is the well?", "Nine fathoms.", "How wide?"
_TURNS: list[tuple[Role, str]] = [("user", _FIRST), ("assistant", _ANSWER), ("user", _SECOND)]
_TALK = [Message(role=role, content=content) for role, content in _TURNS]
# A tag of transformers, which marks what the assistant says.
_GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")


@dataclass(frozen=True)
class Traits:
    """What a chat template does with messages.

    Attributes:
        reads: Names of the keys, roles and variables that the template mentions.
        ignores_system: Whether the text of a system turn is not in what the template renders.
        rewrites_answers: Whether a later prompt contains an answer in another form than the model was asked for, as
            in the templates of Qwen 3 and DeepSeek R1, which leave out earlier thoughts.
        opens_thought: Whether the generation prompt ends within a thought, as that of DeepSeek R1.
    """

    reads: frozenset[str]
    ignores_system: bool
    rewrites_answers: bool
    opens_thought: bool

    @classmethod
    def of(cls, template: str, render: Render) -> "Traits":
        """Examines a template.

        Args:
            template: The Jinja text.
            render: Function that turns messages into text, with or without the generation prompt.

        Raises:
            UserError: If the template refuses a question, or ignores a question or its answer.
        """
        prompt = render(_TALK[:1], True)
        whole = _tried(render, _TALK[:2], False)
        for what, text, rendered in (("a question", _FIRST, prompt), ("an answer", _ANSWER, whole)):
            if rendered is not None and _letters(text) not in _letters(rendered):
                raise UserError(
                    f"the chat template ignores the messages: of {what} it renders {rendered[:80]!r}, which does not "
                    "contain its text: set another data.template"
                )
        system = _tried(render, [Message(role="system", content=_SYSTEM), *_TALK[:1]], False)
        # What a model reads at the first question, after the answer, and at the second question.
        told = [prompt, whole, _tried(render, _TALK, True)]
        return cls(
            reads=_names(template),
            ignores_system=system is not None and _letters(_SYSTEM) not in _letters(system),
            rewrites_answers=any(before and after and not after.startswith(before) for before, after in pairwise(told)),
            opens_thought=opens_thought(prompt),
        )


def _tried(render: Render, messages: list[Message], prompt: bool) -> str | None:
    try:
        return render(messages, prompt)
    except UserError:
        return None


def _letters(text: str) -> str:
    """The letters of a text; a template may change the others, and the case."""
    return re.sub(r"\W", "", text).casefold()


def _names(template: str) -> frozenset[str]:
    source = _GENERATION.sub("", template)
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(source)
    except TemplateSyntaxError:
        return frozenset(re.findall(r"\w+", source))
    attributes = (node.attr for node in tree.find_all(nodes.Getattr))
    names = (node.name for node in tree.find_all(nodes.Name))
    texts = (node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str))
    return frozenset(chain(attributes, names, texts))
