"""Checks of tokenizer, template and rows: the demo's tokenizer is changed until they find something."""

import pytest

from lightning_rlhf.checks.finding import Finding
from lightning_rlhf.checks.texts import (
    QUESTION,
    fits_context,
    fits_vocabulary,
    labels,
    served_prompts,
    single_bos,
    special_tokens,
    template_round_trip,
)
from lightning_rlhf.data.render import Rendered, Renderer
from lightning_rlhf.models.source import ModelSource

# Names of the special tokens of the demo's tokenizer.
PAD, USER, END = "<|pad|>", "<|user|>", "<|end|>"


def renderer(template: str | None = None, *stop_ids: int, **tokens: str) -> Renderer:
    """Returns the demo's renderer with another template or other special tokens."""
    tokenizer = ModelSource(config={}, tokenizer="pkg://lightning_rlhf.demo/tokenizer").load_tokenizer()
    for name, token in tokens.items():
        setattr(tokenizer, name, token)
    return Renderer(tokenizer, template, stop_ids)


def test_the_tokens_that_end_an_answer_are_named() -> None:
    assert special_tokens(renderer()) == Finding("stop tokens", "ok", "answers end with <|end|> (3)")


def test_a_turn_that_ends_with_a_text_that_is_no_token_is_a_warning() -> None:
    template = "{% for m in messages %}{{ '<|user|>' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    finding = special_tokens(renderer(template))
    assert finding.status == "warning"
    assert finding.found == "answers end with <|end|> (3); the template adds '<|im_end|>' before, as text"
    assert "make it a special token of the tokenizer (model.tokenizer)" in finding.remedy


@pytest.mark.parametrize("added", ["</answer>", "\\n"])
def test_what_the_template_writes_before_a_stop_token_is_told_without_a_warning(added: str) -> None:
    template = "{% for m in messages %}{{ '<|user|>' + m['content'] + '" + added + "<|end|>' }}{% endfor %}"
    shown = added.replace("\\n", "\n")
    assert special_tokens(renderer(template)) == Finding(
        "stop tokens", "ok", f"answers end with <|end|> (3); the template adds {shown!r} before, as text"
    )


def test_a_token_of_the_template_that_is_not_eos_stops_too() -> None:
    finding = special_tokens(renderer(eos_token=PAD, pad_token=None))
    assert finding == Finding("stop tokens", "ok", "answers end with <|pad|> (0), <|end|> (3)")


def test_a_pad_that_is_eos_is_told_and_does_no_harm() -> None:
    finding = special_tokens(renderer(pad_token=END))
    assert finding.status == "ok"
    assert "PAD is one of them" in finding.found


def test_prompts_that_are_served_with_the_ids_of_training_are_ok() -> None:
    assert served_prompts(renderer()).status == "ok"


def test_prompts_that_are_served_with_other_ids_are_a_warning() -> None:
    # This token extends from the end of a prompt into the answer.
    tokenizer = renderer("{% for m in messages %}{{ m['content'] }}{% endfor %}").tokenizer
    tokenizer.add_tokens(["?Is"])
    finding = served_prompts(Renderer(tokenizer))
    assert finding.status == "warning"
    assert "'?Is'" in finding.found
    assert "data.template" in finding.remedy


@pytest.mark.parametrize(
    ("rows", "status", "found"),
    [
        ([[1, 5], [1, 6, 1]], "ok", "2 of 2 rows begin with one"),
        ([[5, 6], [6]], "ok", "0 of 2 rows begin with one"),
        ([[1, 1, 5], [1, 6]], "error", "1 of 2 rows begin with two"),
    ],
)
def test_two_bos_at_the_start_are_an_error(rows: list[list[int]], status: str, found: str) -> None:
    finding = single_bos(renderer(bos_token=USER), rows)
    assert (finding.status, finding.found) == (status, found)


def test_without_a_bos_there_is_nothing_to_check() -> None:
    assert single_bos(renderer(), [[1, 1]]).status == "ok"


def row(ids: list[int], learnt: str) -> Rendered:
    return Rendered(ids, [mark == "x" for mark in learnt])


GOOD = row([1, 5, 2, 6, 3], "...xx")


@pytest.mark.parametrize(
    ("rows", "statuses"),
    [
        ([GOOD, row([1, 5, 2, 6, 3, 9], "...xx.")], ["ok", "ok"]),
        # These rows have nothing to learn.
        ([GOOD, row([1, 5, 2, 6, 3], ".....")], ["error", "ok"]),
        # The end is in the row but not learnt, or it is missing.
        ([GOOD, row([1, 5, 2, 6, 3], "...x.")], ["ok", "error"]),
        ([GOOD, row([1, 5, 2, 6, 7], "...xx")], ["ok", "error"]),
    ],
)
def test_every_row_has_labels_and_the_last_of_them_ends_the_answer(rows: list[Rendered], statuses: list[str]) -> None:
    assert [finding.status for finding in labels(renderer(), rows)] == statuses


def test_labels_are_counted() -> None:
    first, second = labels(renderer(), [GOOD, row([1, 5, 2], "...")])
    assert first.found == "1 of 2 rows have tokens to learn, 25% of all tokens"
    assert second.found == "the last token to learn ends the answer in 1 of 2 rows"


ONE_TURN = "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}{{ messages[0]['content'] }}"
CHANGES = "{% for m in messages %}{{ m['content'] | replace('Yes', 'No') }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (None, "(2 tried)"),
        ("plain", "(2 tried)"),
        (CHANGES, "comes back as 'No, that is so.'"),
        (ONE_TURN, "one turn only"),
    ],
)
def test_an_answer_comes_back_as_it_went_in(template: str | None, found: str) -> None:
    finding = template_round_trip(renderer(template), [[QUESTION], [QUESTION]])
    assert finding.status == ("ok" if "tried" in found else "error")
    assert found in finding.found


@pytest.mark.parametrize(("context", "status"), [(None, "ok"), (8, "ok"), (7, "error")])
def test_the_longest_row_fits_into_the_context(context: int | None, status: str) -> None:
    finding = fits_context("the longest row", 8, context)
    assert finding.status == status
    assert finding.found.startswith("the longest row: 8 tokens; the models read ")


@pytest.mark.parametrize(("vocabulary", "status"), [(None, "ok"), (9, "ok"), (8, "error")])
def test_the_nets_know_all_ids(vocabulary: int | None, status: str) -> None:
    assert fits_vocabulary(8, vocabulary).status == status
