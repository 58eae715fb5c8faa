"""Templates of reasoning models: thoughts in the generation prompt, empty thoughts, and thoughts that are left out."""

from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from lightning_rlhf.checks.texts import QUESTION, special_tokens, template_round_trip
from lightning_rlhf.data.kinds import demonstrations
from lightning_rlhf.data.prepare import prepare
from lightning_rlhf.data.prompts import PROMPT
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.serving import served_otherwise
from lightning_rlhf.data.thoughts import continued, without_thought
from lightning_rlhf.errors import UserError

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]

# As DeepSeek R1: it prompts with a thought, and leaves thoughts out of answers.
R1 = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ '<|im_start|>' + m['content'].split('</think>')[-1] | trim + eos_token }}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|><think>\n' }}{% endif %}"
)
# As Qwen 3: only the last answer has a thought, which may be empty.
QWEN3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}"
    "{% set thought = m.reasoning_content | default('') %}"
    "{% if not thought and '</think>' in m.content %}"
    "{% set thought = m.content.split('</think>')[0].split('<think>')[-1] | trim %}{% endif %}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content.split('</think>')[-1] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The prompt has an empty thought, which answers do not have.
CLOSED = R1.replace("<think>\n", "<think>\n\n</think>\n\n")
THOUGHT, ANSWER = "It is even.", "It is four."


@pytest.fixture
def make_renderer(make_tokenizer: MakeTokenizer) -> Callable[[str], Renderer]:
    def make(template: str) -> Renderer:
        tokenizer = make_tokenizer(template=template)
        # Added tokens that are not control tokens, as in both models.
        tokenizer.add_tokens(["<think>", "</think>"])
        return Renderer(tokenizer, stop_ids=[tokenizer.convert_tokens_to_ids("<|im_end|>")])

    return make


def talk(answer: dict[str, Any]) -> list[Any]:
    return [{"role": "user", "content": "What is two plus two?"}, {"role": "assistant", **answer}]


def learnt(renderer: Renderer, rendered: Any) -> str:
    return renderer.tokenizer.decode([token for token, label in zip(*rendered, strict=True) if label])


ANSWERS = {
    "a key": {"content": ANSWER, "reasoning_content": THOUGHT},
    "in the content": {"content": f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"},
    "without a beginning": {"content": f"{THOUGHT}\n</think>\n\n{ANSWER}"},
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_continues_the_thought_that_the_prompt_begins(
    make_renderer: Callable[[str], Renderer], answer: dict[str, Any]
) -> None:
    renderer = make_renderer(R1)
    rendered = renderer.conversation(talk(answer))
    prompt = renderer.prompt(talk(answer)[:1])
    assert rendered.ids[: len(prompt)] == prompt
    assert renderer.tokenizer.decode(prompt).endswith("<|im_start|><think>\n")
    assert learnt(renderer, rendered) == f"{THOUGHT}\n</think>\n\n{ANSWER}</s>"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (R1, f"\n</think>\n\n{ANSWER}</s>"),
        (QWEN3, f"<think>\n\n</think>\n\n{ANSWER}<|im_end|>"),
        (CLOSED, f"{ANSWER}</s>"),
    ],
    ids=["R1", "Qwen 3", "closed"],
)
def test_an_answer_without_a_thought_has_an_empty_one(
    make_renderer: Callable[[str], Renderer], template: str, expected: str
) -> None:
    renderer = make_renderer(template)
    assert learnt(renderer, renderer.conversation(talk({"content": ANSWER}))) == expected


def test_thoughts_need_not_be_learnt(make_renderer: Callable[[str], Renderer]) -> None:
    for template in (R1, QWEN3):
        renderer = make_renderer(template)
        for answer in ({"content": ANSWER}, *ANSWERS.values()):
            (rendered,) = renderer.conversations([talk(answer)], learn_reasoning=False)
            whole = renderer.conversation(talk(answer))
            assert not isinstance(rendered, UserError)
            assert renderer.tokenizer.decode(rendered.ids) == renderer.tokenizer.decode(whole.ids)
            assert learnt(renderer, rendered) == ANSWER + ("</s>" if template == R1 else "<|im_end|>")


@pytest.mark.parametrize("template", [R1, QWEN3], ids=["R1", "Qwen 3"])
def test_of_several_answers_only_the_last_is_learnt_and_this_is_counted(
    make_renderer: Callable[[str], Renderer], template: str
) -> None:
    renderer = make_renderer(template)
    rows = [
        {"messages": talk({"content": "Five."}) + talk({"content": ANSWER})},
        {"messages": talk({"content": "No."})},
    ]
    prepared = prepare(rows, demonstrations(), renderer, "raise")
    assert [ANSWER in learnt(renderer, row) for row in prepared.rows] == [True, False]
    assert "Five." not in learnt(renderer, prepared.rows[0])
    (note,) = prepared.report.notes
    assert "only the last answer" in note
    assert prepared.report.notes[note] == 1


@pytest.mark.parametrize("template", [R1, QWEN3, CLOSED], ids=["R1", "Qwen 3", "closed"])
def test_such_templates_are_fine_for_ppo_and_doctor(make_renderer: Callable[[str], Renderer], template: str) -> None:
    renderer = make_renderer(template)
    (prompt,) = prepare([{"prompt": QUESTION["content"]}], PROMPT, renderer, "raise").rows
    assert prompt.ids.tolist() == renderer.prompt([QUESTION])
    assert template_round_trip(renderer, [[QUESTION], talk({"content": ANSWER}) + [QUESTION]]).status == "ok"
    assert special_tokens(renderer).status == "ok"
    assert served_otherwise(renderer, renderer.tokenizer) is None


def test_a_thought_that_the_prompt_has_closed_already_is_refused(make_renderer: Callable[[str], Renderer]) -> None:
    renderer = make_renderer(CLOSED.replace(".split('</think>')[-1]", ""))
    with pytest.raises(UserError, match="does not begin an answer the way"):
        renderer.conversation(talk({"content": f"<think>{THOUGHT}</think>{ANSWER}"}))


def test_a_prompt_that_does_not_begin_a_thought_is_not_continued() -> None:
    assert continued("user: hi\nbot:\n", "user: hi\nBOT: yes", ("assistant", "yes")) is None


@pytest.mark.parametrize("answer", ["yes", "<think>\n\n</think>\n\nyes", "so\n</think>yes "])
def test_people_read_what_follows_the_thought(answer: str) -> None:
    assert without_thought(answer) == "yes"
