"""Rendering many conversations at once gives the text of each alone, whether or not the template is turn by turn."""

from collections.abc import Callable
from itertools import product

import pytest
from transformers import PreTrainedTokenizerFast

from lightning_rlhf.data.fields import Role
from lightning_rlhf.data.templates import TEMPLATES, Asked, ChatTexts, Turn, is_turn_by_turn
from lightning_rlhf.errors import UserError

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]

BODY = "{{ '<' + m.role + '>' + m['content'] | trim }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
PROMPT = "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
LOOP = "{% for m in messages %}" + BODY + "{% endfor %}" + PROMPT
REFUSES = LOOP.replace(BODY, BODY + "{% if 'no' in m.content %}{{ raise_exception('a no') }}{% endif %}")
TURN_BY_TURN = {**TEMPLATES, "a loop": LOOP, "with a beginning": "{{ bos_token }}<chat>" + LOOP, "refuses": REFUSES}
# What each template depends on in addition to the turn.
OTHERS = {
    "the place": LOOP.replace(BODY, "{% if loop.last %}!{% endif %}" + BODY),
    "the number of turns": LOOP.replace(BODY, "{{ messages | length }}" + BODY),
    "the turn before": "{% set ns = namespace(last='') %}" + LOOP.replace(BODY, BODY + "{% set ns.last = m.role %}"),
    "whether it prompts": LOOP.replace(BODY, BODY + PROMPT),
    "some of the turns": LOOP.replace("in messages", "in messages[1:]"),
    "an end": LOOP + "{{ eos_token }}",
    "two loops": LOOP + LOOP,
    "turns of one role": LOOP.replace("in messages", "in messages if m.role == 'user'"),
    "a variable": LOOP.replace(BODY, "{% set x = messages[0] %}" + BODY),
    "no message": "{{ messages | map(attribute='content') | join }}",
    "no Jinja": "{% for",
}


@pytest.mark.parametrize("template", TURN_BY_TURN.values(), ids=TURN_BY_TURN)
def test_a_template_that_looks_at_one_turn_at_a_time_is_known_by_its_syntax(template: str) -> None:
    assert is_turn_by_turn(template)


@pytest.mark.parametrize("template", OTHERS.values(), ids=OTHERS)
def test_a_template_that_looks_further_is_known_too(template: str) -> None:
    assert not is_turn_by_turn(template)


def alone(tokenizer: PreTrainedTokenizerFast, asked: Asked) -> str:
    messages = [{"role": role, "content": content} for role, content in asked.turns]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asked.prompt)


@pytest.mark.parametrize("name", [name for name in (*TURN_BY_TURN, *OTHERS) if name != "no Jinja"])
def test_each_text_is_that_of_the_conversation_alone(name: str, make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(template={**TURN_BY_TURN, **OTHERS}[name])
    roles: list[Role] = ["user", "assistant", "system"]
    # The last content is the marker that separates turns, which texts cannot contain; the first looks like a turn.
    turns: list[Turn] = list(product(roles, ["<user>", " why? ", "", "a", "\ufdd1"]))
    asked = [Asked(tuple(turns[start:end]), end % 2 == 0) for start in range(12) for end in range(start + 1, 13)]
    assert ChatTexts(tokenizer).texts(asked) == {one: alone(tokenizer, one) for one in asked}


def test_only_conversations_with_a_refused_turn_are_refused(make_tokenizer: MakeTokenizer) -> None:
    good, bad = Asked((("user", "yes"),), True), Asked((("user", "yes"), ("assistant", "no")), False)
    texts = ChatTexts(make_tokenizer(template=REFUSES)).texts([good, bad])
    assert texts[good] == "<user>yes<assistant>"
    assert isinstance(texts[bad], UserError)
    assert str(texts[bad]) == "the chat template refuses the messages: a no"


def test_turn_by_turn_the_template_is_applied_once_to_all(
    make_tokenizer: MakeTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = make_tokenizer(template=LOOP)
    texts, applied = ChatTexts(tokenizer), []
    right = tokenizer.apply_chat_template

    def counted(conversations: list, **settings: object) -> object:
        applied.append(len(conversations))
        return right(conversations, **settings)

    monkeypatch.setattr(tokenizer, "apply_chat_template", counted)
    texts.texts([Asked((("user", f"{n}"), ("assistant", "a"))[:end], True) for n in range(9) for end in (1, 2)])
    assert applied == [1]
