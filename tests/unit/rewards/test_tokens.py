"""Scores of single tokens: what a function of texts gets, what it returns, and what it must not return."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lightning_rlhf import TextReward, WeightedSum, load_reward
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Answers
from lightning_rlhf.rewards.build import as_reward
from lightning_rlhf.rewards.tokens import token_texts

MakeAnswers = Callable[..., Answers]
# The second response reached the length limit.
ROWS = {"My kettle leaks.": "I am sorry to hear that.", "Hello": "Tighten the seal"}


@pytest.fixture
def answers(make_answers: MakeAnswers) -> Answers:
    return make_answers(ROWS, cut=(1,))


def a_tenth_for_each_e(prompts: list[str], responses: list[str], response_tokens: list[list[str]]) -> list[list[float]]:
    return [[text.count("e") / 10 for text in texts] for texts in response_tokens]


def scored_by(returned: Any, renderer: Renderer, answers: Answers) -> Any:
    """Returns the scores of a function that returns a given value."""

    def fixed(prompts: list[str], responses: list[str]) -> Any:
        return returned

    return as_reward(TextReward(fixed), renderer)(answers)


def test_the_texts_of_tokens_are_together_the_response(renderer: Renderer, answers: Answers) -> None:
    for response, ids, mask in zip(
        answers.responses, answers.sequences.responses, answers.sequences.response_mask, strict=True
    ):
        texts = token_texts(renderer, ids[mask].tolist())
        assert len(texts) == mask.sum() > 3
        assert "".join(texts).strip() == response
        # The texts are those of the tokenizer, token by token.
        assert [text.strip() for text in texts] == [
            renderer.tokenizer.decode([number], skip_special_tokens=True).strip() for number in ids[mask].tolist()
        ]


def test_a_stop_token_adds_nothing_to_the_text(renderer: Renderer, answers: Answers) -> None:
    ids = answers.sequences.responses[0][answers.sequences.response_mask[0]].tolist()
    assert ids[-1] in renderer.stop_ids
    assert token_texts(renderer, ids)[-1] == ""
    # One of several stop tokens may be an ordinary token.
    plain = Renderer(renderer.tokenizer, stop_ids=[*renderer.stop_ids, ids[2]])
    assert token_texts(plain, ids[:3]) == [*token_texts(renderer, ids[:2]), ""]


def test_a_character_of_several_tokens_is_added_by_the_last_of_them(foreign: str) -> None:
    renderer = load_reward(foreign).renderer
    # The tokens of this tokenizer are bytes: one, three and one.
    ids = renderer.tokenizer.encode("a€b", add_special_tokens=False)
    assert token_texts(renderer, ids) == ["a", "", "", "€", "b"]
    assert "".join(token_texts(renderer, ids[:3])) == "a\ufffd"


def test_a_function_scores_the_tokens_of_each_response(renderer: Renderer, answers: Answers) -> None:
    scores = as_reward(TextReward(a_tenth_for_each_e), renderer)(answers)
    mask = answers.sequences.response_mask
    assert scores.tokens is not None
    assert scores.tokens.shape == mask.shape
    assert not scores.tokens[~mask].any()
    # "hear", "Tighten", "the" and "seal" all contain an e, whichever tokens they consist of.
    assert_close(scores.tokens.sum(1), torch.tensor([0.1, 0.3]))
    assert_close(scores.total, torch.tensor([0.1, 0.3]))
    assert not scores.whole.any()
    for row, (ids, counts) in enumerate(zip(answers.sequences.responses, mask, strict=True)):
        texts = token_texts(renderer, ids[counts].tolist())
        assert_close(scores.tokens[row][counts], torch.tensor([text.count("e") / 10 for text in texts]))


def test_what_a_tool_wrote_between_two_tokens_has_no_score(renderer: Renderer, answers: Answers) -> None:
    mask = answers.sequences.response_mask.clone()
    mask[:, 1] = False
    left = mask.sum(1).tolist()
    with_hole = answers._replace(sequences=answers.sequences._replace(response_mask=mask))
    scores = scored_by([[1.0] * count for count in left], renderer, with_hole)
    assert_close(scores.tokens, mask.float())


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_rows_of_an_array_may_go_on_with_zeros(kind: Callable, renderer: Renderer, answers: Answers) -> None:
    mask = answers.sequences.response_mask
    rows = torch.where(mask, torch.arange(mask.numel()).view(mask.shape), 0).tolist()
    wider = [[*row, 0] for row in rows]
    scores = scored_by(kind(wider), renderer, answers)
    assert_close(scores.tokens, torch.tensor(rows, dtype=torch.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: [rows[0], rows[1][:-1]],
            "fixed returned {less} numbers for the {count} tokens of response 2 of 2",
        ),
        (lambda rows: [rows[0], [*rows[1], 0.5]], "fixed returned 0.5 after the {count} tokens of response 2 of 2"),
        (lambda rows: [rows[0], 1.0], "fixed returned 1.0 for response 2 of 2, 'Tighten the seal', and lists for"),
        (
            lambda rows: [rows[0], [float("nan"), *rows[1][1:]]],
            "fixed returned nan for response 2 of 2, 'Tighten the seal'",
        ),
        (lambda rows: [rows[0], ["1", *rows[1][1:]]], "fixed returned '1' for response 2 of 2, 'Tighten the seal'"),
        (lambda rows: [rows[0], [[1.0], *rows[1][1:]]], "fixed returned [1.0] for response 2 of 2, 'Tighten the seal'"),
        (lambda rows: rows[:1], "fixed returned 1 scores for 2 responses"),
    ],
)
def test_what_is_not_one_number_for_each_token_is_refused_by_name(
    change: Callable, message: str, renderer: Renderer, answers: Answers
) -> None:
    counts = answers.sequences.response_mask.sum(1).tolist()
    found = change([[0.0] * count for count in counts])
    with pytest.raises(UserError, match=re.escape(message.format(count=counts[1], less=counts[1] - 1))):
        scored_by(found, renderer, answers)


def test_a_gold_metric_scores_no_tokens() -> None:
    gold = TextReward(lambda prompts, responses: [[1.0, 0.0]])
    with pytest.raises(UserError, match=r"returned \[1.0, 0.0\] for response 1 of 1, 'a'; a score is a finite number"):
        gold(["q"], ["a"], [{}])


def test_a_sum_adds_scores_of_responses_and_of_tokens_each_by_its_weight(renderer: Renderer, answers: Answers) -> None:
    def whole(prompts: list[str], responses: list[str]) -> list[float]:
        return [1.0, 2.0]

    parts = {"whole": TextReward(whole), "e": TextReward(a_tenth_for_each_e), "twice": TextReward(a_tenth_for_each_e)}
    scores = as_reward(WeightedSum(parts, {"whole": 3.0, "e": -1.0, "twice": 5.0}), renderer)(answers)
    tokens = as_reward(parts["e"], renderer)(answers).tokens
    assert tokens is not None
    assert_close(scores.whole, torch.tensor([3.0, 6.0]))
    assert_close(scores.tokens, 4 * tokens)
    assert_close(scores.total, torch.tensor([3.0 + 0.4, 6.0 + 1.2]))
    # Each part is logged before its weight, including the scores of its tokens.
    assert_close(scores.parts["e"], torch.tensor([0.1, 0.3]))


def test_texts_of_tokens_are_made_only_for_a_function_that_names_them(renderer: Renderer, answers: Answers) -> None:
    seen: dict[str, Any] = {}

    def everything(prompts: list[str], responses: list[str], **columns: Any) -> list[float]:
        seen.update(columns)
        return [0.0, 0.0]

    as_reward(TextReward(everything), renderer)(answers)
    assert seen.keys() == {"finished", "messages"}
