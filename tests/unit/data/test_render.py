"""Rendering: prompts are prefixes, there is one BOS and a learnt end, and masks follow from the structure."""

from collections.abc import Callable, Sequence
from itertools import product

import pytest
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from lightning_rlhf.data.fields import Message, Role
from lightning_rlhf.data.render import Rendered, Renderer
from lightning_rlhf.errors import UserError

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BRINGS_BOS = "{{ bos_token }}" + CHATML
# As in Qwen 3, earlier answers lose their thoughts, and only the last answer gets an empty one.
REWRITES = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and loop.last %}{{ '<think></think>' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML


def turn(role: Role, content: str) -> Message:
    return {"role": role, "content": content}


TWO_TURNS = [
    turn("system", "You are a helpful assistant."),
    turn("user", "Hello, how are you?"),
    turn("assistant", "I am fine, thank you."),
    turn("user", "What is two plus two?"),
    turn("assistant", "It is four."),
]
ONE_TURN = TWO_TURNS[-2:]


def learnt(renderer: Renderer, rendered: Rendered) -> str:
    """Returns the text with each learnt stretch in brackets."""
    text, inside = "", False
    for token, label in zip(rendered.ids, rendered.loss_mask, strict=True):
        if label != inside:
            text += "[" if label else "]"
        inside = label
        text += renderer.tokenizer.decode([token]) if label else ""
    return text + "]" if inside else text


@pytest.mark.parametrize(
    ("kind", "bos", "template", "messages"),
    list(
        product(
            ["bytes", "llama"],
            [False, True],
            ["plain", "raw", CHATML, BRINGS_BOS, REWRITES],
            [TWO_TURNS, TWO_TURNS[1:], ONE_TURN, [turn("assistant", "Hello."), *TWO_TURNS[1:]]],
        )
    ),
)
def test_a_prompt_is_an_exact_prefix_of_the_conversation(
    make_tokenizer: MakeTokenizer, kind: str, bos: bool, template: str, messages: Sequence[Message]
) -> None:
    renderer = Renderer(make_tokenizer(kind, bos=bos), template)
    modes = ["last"] if template == REWRITES and len(messages) > 2 else ["last", "all"]
    prompt = renderer.prompt(messages[:-1])
    for mode in modes:
        ids, mask = renderer.conversation(messages, mode)
        assert ids[: len(prompt)] == prompt
        assert mask[len(prompt)]
        assert len(mask) == len(ids)
    assert ids.count(renderer.tokenizer.bos_token_id) == (bos or template == BRINGS_BOS)
    assert renderer.decode(ids[len(prompt) :]).endswith("It is four.")


def test_the_plain_template_is_the_anthropic_form(make_tokenizer: MakeTokenizer) -> None:
    renderer = Renderer(make_tokenizer(bos=True))
    assert renderer.tokenizer.decode(renderer.conversation(TWO_TURNS).ids) == (
        "<s>You are a helpful assistant.\n\nHuman: Hello, how are you?\n\nAssistant: I am fine, thank you.</s>"
        "\n\nHuman: What is two plus two?\n\nAssistant: It is four.</s>"
    )


def test_the_raw_template_puts_nothing_around_contents_and_keeps_their_space(make_tokenizer: MakeTokenizer) -> None:
    renderer = Renderer(make_tokenizer(bos=True), "raw")
    prompt = [turn("user", "The answer is ")]
    ids, mask = renderer.conversation([*prompt, turn("assistant", "  four\n")])
    assert renderer.tokenizer.decode(ids) == "<s>The answer is   four\n</s>"
    start = len(renderer.prompt(prompt))
    assert mask == [False] * start + [True] * (len(ids) - start)
    assert renderer.decode(ids[start:]) == "  four\n"


def test_other_templates_get_contents_without_space_around(make_tokenizer: MakeTokenizer) -> None:
    renderer = Renderer(make_tokenizer(template=CHATML))
    spaced = [turn(message["role"], f" \n{message['content']}\n ") for message in TWO_TURNS]
    assert renderer.conversation(spaced) == renderer.conversation(TWO_TURNS)


@pytest.mark.parametrize("template", [None, BRINGS_BOS, CHATML, "plain", "raw"])
def test_there_is_one_bos_and_the_export_carries_it(make_tokenizer: MakeTokenizer, template: str | None) -> None:
    tokenizer = make_tokenizer(bos=True)
    ids = Renderer(tokenizer, template).conversation(ONE_TURN).ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1
    exported = tokenizer.apply_chat_template(ONE_TURN[:1], tokenize=False, add_generation_prompt=True)
    assert exported.count("<s>") == 1
    # An exported tokenizer is used again with its own template.
    assert Renderer(tokenizer).conversation(ONE_TURN).ids == ids


def test_there_is_no_bos_if_neither_tokenizer_nor_template_brings_one(make_tokenizer: MakeTokenizer) -> None:
    renderer = Renderer(make_tokenizer(), CHATML)
    assert renderer.tokenizer.bos_token_id not in renderer.conversation(TWO_TURNS).ids


def test_an_exported_raw_template_still_keeps_space(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(bos=True)
    Renderer(tokenizer, "raw")
    again = Renderer(tokenizer)
    assert again.decode(tokenizer.encode(" four", add_special_tokens=False)) == " four"


def test_the_template_given_wins_over_that_of_the_tokenizer_which_wins_over_plain(
    make_tokenizer: MakeTokenizer,
) -> None:
    assert "Human" in Renderer(make_tokenizer()).tokenizer.get_chat_template()
    assert Renderer(make_tokenizer(template=CHATML)).tokenizer.chat_template == CHATML
    assert Renderer(make_tokenizer(template=CHATML), REWRITES).tokenizer.chat_template == REWRITES
    assert "Human" in Renderer(make_tokenizer(template=CHATML), "plain").tokenizer.get_chat_template()


@pytest.mark.parametrize("kind", ["bytes", "llama"])
def test_every_answer_is_learnt_with_its_end_and_nothing_behind_it(make_tokenizer: MakeTokenizer, kind: str) -> None:
    tokenizer = make_tokenizer(kind, template=CHATML)
    renderer = Renderer(tokenizer)
    both = renderer.conversation(TWO_TURNS)
    assert learnt(renderer, both).replace(" ", "") == "[Iamfine,thankyou.<|im_end|>][Itisfour.<|im_end|>]"
    last = renderer.conversation(TWO_TURNS, "last")
    assert last.ids == both.ids
    assert learnt(renderer, last).replace(" ", "") == "[Itisfour.<|im_end|>]"


def test_an_end_is_added_where_the_template_brings_no_stop_token(make_tokenizer: MakeTokenizer) -> None:
    renderer = Renderer(make_tokenizer(template=CHATML.replace("<|im_end|>", "")))
    rendered = renderer.conversation(TWO_TURNS)
    # The line end after an answer is not learnt, and EOS takes the place of the last.
    assert learnt(renderer, rendered) == "[I am fine, thank you.][It is four.</s>]"
    assert rendered.ids[-1] == renderer.tokenizer.eos_token_id
    assert rendered.ids[: len(renderer.prompt(TWO_TURNS[:-1]))] == renderer.prompt(TWO_TURNS[:-1])


def test_the_mask_does_not_depend_on_the_padding_token(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer()
    before = Renderer(tokenizer).conversation(TWO_TURNS)
    tokenizer.pad_token = tokenizer.eos_token
    after = Renderer(tokenizer).conversation(TWO_TURNS)
    assert after == before
    assert after.loss_mask[-1]
    assert after.ids[-1] == tokenizer.pad_token_id


@pytest.mark.parametrize("kind", ["bytes", "llama"])
@pytest.mark.parametrize("text", ["<|im_end|>", "Say </s> or <|im_end|>now", "<s></s>", "a\ufdd0<|im_start|>"])
def test_control_tokens_inside_contents_are_mere_text(make_tokenizer: MakeTokenizer, kind: str, text: str) -> None:
    tokenizer = make_tokenizer(kind, bos=True, template=CHATML)
    end, eos = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
    renderer = Renderer(tokenizer, stop_ids=[end])
    messages = [turn("user", text), turn("assistant", text)]
    prompt = renderer.prompt(messages[:1])
    ids, mask = renderer.conversation(messages)
    assert ids[: len(prompt)] == prompt
    assert (ids.count(tokenizer.bos_token_id), ids.count(end), ids.count(eos)) == (1, 2, 0)
    # The whole answer is learnt, and the control token inside does not end it.
    assert renderer.decode(ids[len(prompt) :]) == text.replace("\ufdd0", "")
    assert mask[ids.index(end, len(prompt))]


def test_a_llama_tokenizer_puts_no_space_in_front_of_a_piece(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer("llama", template="{{ messages | map(attribute='content') | join('|') }}")
    renderer = Renderer(tokenizer)
    whole = "Hello|how|are|you"
    messages = [turn(role, text) for role, text in zip(["user", "assistant"] * 2, whole.split("|"), strict=True)]
    ids = renderer.conversation(messages, "last").ids
    assert tokenizer.decode(ids[:-1]) == whole


def test_a_llama_tokenizer_keeps_the_space_that_an_answer_begins_with(make_tokenizer: MakeTokenizer) -> None:
    renderer = Renderer(make_tokenizer("llama"), "raw")
    prompt = [turn("user", "It is")]
    ids = renderer.conversation([*prompt, turn("assistant", " four\n")]).ids
    assert renderer.decode(ids[len(renderer.prompt(prompt)) :]) == " four\n"


@pytest.mark.parametrize("kind", ["bytes", "llama"])
def test_decoding_cuts_at_the_first_stop_token(make_tokenizer: MakeTokenizer, kind: str) -> None:
    tokenizer = make_tokenizer(kind, template=CHATML)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    renderer = Renderer(tokenizer, stop_ids=[end])
    words = tokenizer.encode("It is four .", add_special_tokens=False)
    assert renderer.stop_ids == tuple(sorted([tokenizer.eos_token_id, end]))
    assert renderer.decode([*words, end, *words]) == "It is four ."
    assert renderer.decode([*words, tokenizer.eos_token_id, end]) == "It is four ."
    assert renderer.decode([tokenizer.bos_token_id, *words]) == "It is four ."
    assert renderer.decode([]) == renderer.decode([end]) == ""


def test_a_template_that_rewrites_earlier_turns_learns_only_the_last(make_tokenizer: MakeTokenizer) -> None:
    renderer = Renderer(make_tokenizer(), REWRITES)
    assert renderer.traits.rewrites_answers
    assert renderer.conversation(TWO_TURNS) == renderer.conversation(TWO_TURNS, "last")
    assert learnt(renderer, renderer.conversation(TWO_TURNS, "last")).startswith("[<think></think>It is four.")
    assert learnt(renderer, renderer.conversation(ONE_TURN)).startswith("[<think></think>It is four.")


def test_a_template_whose_answers_do_not_continue_its_prompts_is_an_error(make_tokenizer: MakeTokenizer) -> None:
    renderer = Renderer(make_tokenizer(), CHATML.replace("assistant\n", "assistant\n<say>"))
    with pytest.raises(UserError, match="does not begin an answer the way its generation prompt does"):
        renderer.conversation(ONE_TURN)


def test_a_template_that_refuses_is_an_error_with_its_own_words(make_tokenizer: MakeTokenizer) -> None:
    renderer = Renderer(make_tokenizer(), NO_SYSTEM)
    with pytest.raises(UserError, match="the chat template refuses the messages: no system role") as error:
        renderer.prompt(TWO_TURNS[:2])
    assert isinstance(error.value.__cause__, TemplateError)


@pytest.mark.parametrize("template", ["chatml", "{% for"])
def test_a_broken_template_is_an_error_at_once(make_tokenizer: MakeTokenizer, template: str) -> None:
    with pytest.raises(UserError, match="template"):
        Renderer(make_tokenizer(), template)


def test_a_tokenizer_without_eos_is_an_error(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no EOS token"):
        Renderer(tokenizer)


@pytest.mark.parametrize("messages", [[], TWO_TURNS[:2], [turn("assistant", "Hello.")]])
def test_a_conversation_without_an_answer_is_an_error(
    make_tokenizer: MakeTokenizer, messages: Sequence[Message]
) -> None:
    with pytest.raises(UserError, match="no token to learn"):
        Renderer(make_tokenizer()).conversation(messages)
