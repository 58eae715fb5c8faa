"""The texts of many conversations at a time by a chat template, which renders no turn more often than it has to.

Most of what it costs to apply a template lies around it, in checks and copies of the messages. Where the text of a
turn depends on that turn alone, each turn is rendered once, however many prefixes of conversations it stands in.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import Environment, TemplateError, TemplateSyntaxError, nodes

from lightning_rlhf.data.fields import Role
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

Turn = tuple[Role, str]


# A Unicode noncharacter: texts do not hold it.
_MARK: Turn = ("user", "\ufdd1")
_PROBES: list[tuple[tuple[Turn, ...], bool]] = [((), False), ((), True), ((_MARK,), False)]


class _TurnByTurn(NamedTuple):
    """What a template adds to the texts of turns."""

    begin: str
    prompt: str
    mark: str
    """The text of a turn that marks where another one ends."""


class Asked(NamedTuple):
    """A text that is asked for: some turns, with or without the generation prompt behind them."""

    turns: tuple[Turn, ...]
    prompt: bool


def chosen_template(tokenizer: "PreTrainedTokenizerBase", template: str | None) -> str:
    """The Jinja text of a template by its name, or as it is given; without one the tokenizer's, or plain."""
    if template is None:
        return tokenizer.get_chat_template() if tokenizer.chat_template else TEMPLATES["plain"]
    if template not in TEMPLATES and "{" not in template:
        raise UserError(f"template '{template}' is neither one of {', '.join(TEMPLATES)} nor a Jinja template")
    return TEMPLATES.get(template, template)


class ChatTexts:
    """Applies the chat template that a tokenizer has when this is made."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Looks at the template."""
        self._tokenizer = tokenizer
        self._turns: _TurnByTurn | None = None
        if is_turn_by_turn(str(tokenizer.chat_template)):
            empty, prompted, marked = (self._apply([turns], prompt) for turns, prompt in _PROBES)
            if isinstance(empty, list) and isinstance(prompted, list) and isinstance(marked, list):
                found = _TurnByTurn(empty[0], *(text[0].removeprefix(empty[0]) for text in (prompted, marked)))
                self._turns = found if found.mark.count(_MARK[1]) == 1 else None

    def texts(self, asked: Iterable[Asked]) -> dict[Asked, str | UserError]:
        """The texts that are asked for, or why the template refuses the turns."""
        wanted = set(asked)
        empty = {one: UserError("there are no messages to render") for one in wanted if not one.turns}
        return {**self._texts(wanted - empty.keys()), **empty}

    def _texts(self, wanted: set[Asked]) -> Mapping[Asked, str | UserError]:
        if self._turns is None or (said := self._said({turn for one in wanted for turn in one.turns})) is None:
            return self._rendered(wanted)
        begin, prompt = self._turns.begin, self._turns.prompt
        return {one: begin + "".join(said[turn] for turn in one.turns) + prompt * one.prompt for one in wanted}

    def _said(self, turns: set[Turn]) -> dict[Turn, str] | None:
        """The text of each turn by itself: the template is applied once to all of them, with marks between them."""
        assert self._turns is not None
        every = self._apply([tuple(part for turn in turns for part in (turn, _MARK))], False)
        said = every[0].removeprefix(self._turns.begin).split(self._turns.mark) if isinstance(every, list) else []
        # Otherwise, the template refuses a turn, or one holds the mark.
        return dict(zip(turns, said, strict=False)) if len(said) == len(turns) + 1 else None

    def _rendered(self, asked: set[Asked]) -> dict[Asked, str | UserError]:
        found: dict[Asked, str | UserError] = {}
        for prompt in (False, True):
            some = [one for one in asked if one.prompt == prompt]
            texts = self._apply([one.turns for one in some], prompt) if some else []
            if isinstance(texts, list):
                found.update(zip(some, texts, strict=True))
            else:
                # At least one of them is refused.
                for one in some:
                    alone = self._apply([one.turns], prompt)
                    found[one] = alone[0] if isinstance(alone, list) else alone
        return found

    def _apply(self, conversations: list[tuple[Turn, ...]], prompt: bool) -> list[str] | UserError:
        try:
            texts = self._tokenizer.apply_chat_template(
                [[{"role": role, "content": content} for role, content in turns] for turns in conversations],
                tokenize=False,
                add_generation_prompt=prompt,
            )
        except (TemplateError, ValueError, TypeError) as error:
            refusal = UserError(f"the chat template refuses the messages: {error}")
            refusal.__cause__ = error
            return refusal
        return [str(text) for text in texts]


_SPECIAL = {"bos_token", "eos_token", "pad_token", "unk_token"}
# What a template may be made of that looks at one turn after the other, beside names, calls and filters.
_PLAIN_NODES = (
    *(nodes.TemplateData, nodes.Output, nodes.If, nodes.CondExpr, nodes.Const, nodes.Getattr),
    *(nodes.Getitem, nodes.Add, nodes.Concat, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not),
)


def is_turn_by_turn(template: str) -> bool:
    """Whether its syntax shows that a text is a beginning, each turn by itself, and the generation prompt.

    So it is where all that a template does is one loop over the messages, whose body looks at nothing but its message,
    and, behind it, what `add_generation_prompt` asks for. Many templates do more, such as counting turns.
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
    """Whether parts of a template read nothing but some names; they may refuse a message by `raise_exception`."""
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
