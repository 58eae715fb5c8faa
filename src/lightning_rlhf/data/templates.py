"""Renders many conversations at a time with a chat template, and no turn more often than necessary.

Most of the cost of applying a template lies in checking and copying the messages. If the text of a turn depends on that
turn alone, each turn is rendered once, no matter how many prefixes of conversations contain it.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, TemplateSyntaxError, nodes

from lightning_rlhf.data.limited import limited
from lightning_rlhf.data.messages import Role
from lightning_rlhf.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATES = {
    "plain": (
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] }}"
        "{% elif message['role'] == 'user' %}{{ '\\n\\nHuman: ' + message['content'] }}"
        "{% else %}{{ '\\n\\nAssistant: ' + message['content'] + eos_token }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% endif %}"
    ),
    "raw": (
        "{% for message in messages %}"
        "{{ message['content'] }}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
        "{% endfor %}"
    ),
}

Turn = tuple[Role, str] | tuple[Role, str, str]
"""Role and content of a turn, and the other keys of its message as JSON if it has any."""

# The mark is a Unicode noncharacter, so texts do not contain it.
_MARK: Turn = ("user", "\ufdd1")
_PROBES: list[tuple[tuple[Turn, ...], bool]] = [((), False), ((), True), ((_MARK,), False)]


class _TurnByTurn(NamedTuple):
    """The texts that a template adds to those of turns."""

    begin: str
    prompt: str
    mark: str
    """The text of a turn that marks the end of another turn."""


class Asked(NamedTuple):
    """A text to render: some turns, with or without the generation prompt after them."""

    turns: tuple[Turn, ...]
    prompt: bool
    tools: str = ""
    """Descriptions of tools as JSON; empty if there are none."""


def chosen_template(tokenizer: "PreTrainedTokenizerBase", template: str | None) -> str:
    """Returns the Jinja text of a template; None takes that of the tokenizer, or plain.

    Args:
        tokenizer: The tokenizer.
        template: The name of a template, the path of a file with one, or its text.

    Raises:
        UserError: If it is none of these.
    """
    if template is None:
        return tokenizer.get_chat_template() if tokenizer.chat_template else TEMPLATES["plain"]
    return template_text(template)


def template_text(template: str) -> str:
    """Returns the Jinja text of a template that is given by its name, as the path of a file, or as text."""
    if template in TEMPLATES:
        return TEMPLATES[template]
    if "{" in template and not template.endswith((".jinja", ".jinja2", ".j2")):
        return template
    try:
        return Path(template).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(
            f"template={template}: neither one of {', '.join(TEMPLATES)} nor a Jinja template, and as a file it cannot "
            f"be read ({error})"
        ) from error


class ChatTexts:
    """Applies the chat template that the tokenizer has when this object is made."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Analyses the template.

        Raises:
            UserError: If it leaves out what messages say, or takes time or memory without end.
        """
        self._tokenizer = tokenizer
        self._turns: _TurnByTurn | None = None
        said = self._apply([(("user", _WORD), ("assistant", _WORD))], False)
        if isinstance(said, list) and _WORD not in said[0].casefold():
            raise UserError(
                f"the chat template does not write what messages say: it makes {said[0][:60]!r} of any conversation; "
                "data.template=FILE.jinja sets another one"
            )
        if is_turn_by_turn(str(tokenizer.chat_template)):
            empty, prompted, marked = (self._apply([turns], prompt) for turns, prompt in _PROBES)
            if isinstance(empty, list) and isinstance(prompted, list) and isinstance(marked, list):
                found = _TurnByTurn(empty[0], *(text[0].removeprefix(empty[0]) for text in (prompted, marked)))
                self._turns = found if found.mark.count(_MARK[1]) == 1 else None

    def texts(self, asked: Iterable[Asked]) -> dict[Asked, str | UserError]:
        """Renders the texts; the result for turns that the template refuses is the error."""
        wanted = set(asked)
        empty = {one: UserError("there are no messages to render") for one in wanted if not one.turns}
        return {**self._texts(wanted - empty.keys()), **empty}

    def _texts(self, wanted: set[Asked]) -> Mapping[Asked, str | UserError]:
        if self._turns is None or (said := self._said({turn for one in wanted for turn in one.turns})) is None:
            return self._rendered(wanted)
        begin, prompt = self._turns.begin, self._turns.prompt
        return {one: begin + "".join(said[turn] for turn in one.turns) + prompt * one.prompt for one in wanted}

    def _said(self, turns: set[Turn]) -> dict[Turn, str] | None:
        """Renders each turn by itself, by applying the template once to all turns with marks between them."""
        assert self._turns is not None
        every = self._apply([tuple(part for turn in turns for part in (turn, _MARK))], False)
        said = every[0].removeprefix(self._turns.begin).split(self._turns.mark) if isinstance(every, list) else []
        # Otherwise the template refuses a turn, or a turn contains the mark.
        return dict(zip(turns, said, strict=False)) if len(said) == len(turns) + 1 else None

    def _rendered(self, asked: set[Asked]) -> dict[Asked, str | UserError]:
        found: dict[Asked, str | UserError] = {}
        alike: dict[tuple[bool, str], list[Asked]] = {}
        for one in asked:
            alike.setdefault((one.prompt, one.tools), []).append(one)
        for (prompt, tools), some in alike.items():
            texts = self._apply([one.turns for one in some], prompt, tools)
            if isinstance(texts, list):
                found.update(zip(some, texts, strict=True))
            else:
                # The template refuses at least one of them.
                for one in some:
                    alone = self._apply([one.turns], prompt, tools)
                    found[one] = alone[0] if isinstance(alone, list) else alone
        return found

    def _apply(self, conversations: list[tuple[Turn, ...]], prompt: bool, tools: str = "") -> list[str] | UserError:
        try:
            with limited(_SECONDS + len(conversations) / _LEAST_RATE, "the chat template"):
                texts = self._tokenizer.apply_chat_template(
                    [[_message(turn) for turn in turns] for turns in conversations],
                    tools=json.loads(tools) if tools else None,
                    tokenize=False,
                    add_generation_prompt=prompt,
                )
        except UserError:
            raise
        # A template is code, which may raise anything: it may divide by zero, or recurse without end.
        except Exception as error:
            refusal = UserError(f"the chat template refuses the messages: {error}")
            refusal.__cause__ = error
            return refusal
        return [str(text) for text in texts]


def _message(turn: Turn) -> dict[str, Any]:
    return {"role": turn[0], "content": turn[1], **(json.loads(turn[2]) if len(turn) > 2 else {})}


_WORD = "kettle"
_SECONDS = 30
"""Time for a call of a template, beside that of its conversations."""
_LEAST_RATE = 50
"""Conversations in a second, of which templates render thousands."""
_SPECIAL = {"bos_token", "eos_token", "pad_token", "unk_token"}
# The syntax that a template may use if it handles one turn after the other, in addition to names, calls and filters.
_PLAIN_NODES = (
    *(nodes.TemplateData, nodes.Output, nodes.If, nodes.CondExpr, nodes.Const, nodes.Getattr),
    *(nodes.Getitem, nodes.Add, nodes.Concat, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not),
)


def is_turn_by_turn(template: str) -> bool:
    """Checks by its syntax whether a template renders a beginning, each turn by itself, and the generation prompt.

    Such a template consists of one loop over the messages, whose body depends on its message alone, followed by what
    `add_generation_prompt` requests. Many templates do more, such as counting turns.
    """
    try:
        body = Environment().parse(template).body
    except TemplateSyntaxError:
        return False
    places = [place for place, node in enumerate(body) if isinstance(node, nodes.For)]
    if len(places) != 1:
        return False
    before, loop, after = body[: places[0]], body[places[0]], body[places[0] + 1 :]
    assert isinstance(loop, nodes.For)
    return (
        isinstance(loop.iter, nodes.Name)
        and loop.iter.name == "messages"
        and isinstance(loop.target, nodes.Name)
        and loop.target.name not in (*_SPECIAL, "messages")
        and not (loop.else_ or loop.test or loop.recursive)
        and _knows_only(before, _SPECIAL)
        and _knows_only(loop.body, {*_SPECIAL, loop.target.name})
        and all(_is_generation_prompt(node) for node in after)
    )


def _is_generation_prompt(node: nodes.Node) -> bool:
    return (
        isinstance(node, nodes.If)
        and isinstance(node.test, nodes.Name)
        and node.test.name == "add_generation_prompt"
        and not (node.elif_ or node.else_)
        and _knows_only(node.body, _SPECIAL)
    )


def _knows_only(parts: list[nodes.Node], names: set[str]) -> bool:
    """Checks whether parts of a template read only the given names; they may call `raise_exception`."""
    for node in (node for part in parts for node in (part, *part.find_all(nodes.Node))):
        if isinstance(node, nodes.Name):
            plain = node.name in names or node.name == "raise_exception"
        elif isinstance(node, nodes.Call):
            plain = isinstance(node.node, nodes.Name) and node.node.name == "raise_exception"
        else:
            plain = isinstance(node, _PLAIN_NODES) or (isinstance(node, nodes.Filter) and node.name == "trim")
        if not plain:
            return False
    return True
