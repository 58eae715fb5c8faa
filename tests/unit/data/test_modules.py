"""What the data modules share, and what is special to preferences and prompts."""

import pytest

from lightning_rlhf.data.batches import pad
from lightning_rlhf.data.preference import Pair, collate_pairs, cut_at_end
from lightning_rlhf.data.prompts import Prompt, collate_prompts, iteration_prompts
from lightning_rlhf.data.render import Rendered
from lightning_rlhf.data.sft import collate_sft, unlabelled
from lightning_rlhf.errors import UserError


def prompts(count: int) -> list[Prompt]:
    return [Prompt([i], str(i), {}) for i in range(count)]


def test_padding_is_known_from_lengths_even_where_a_real_id_is_0() -> None:
    ids, mask = pad([[0, 0, 5], [7]])
    assert ids.tolist() == [[0, 0, 5], [7, 0, 0]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]


def test_prompts_are_padded_at_the_left() -> None:
    batch = collate_prompts([Prompt([1, 2, 3], "x", {}), Prompt([4], "y", {})], [0, 1])
    assert batch.input_ids.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert batch.attention_mask.tolist() == [[True] * 3, [False, False, True]]


def test_a_conversation_is_scored_at_its_stop_token_not_at_what_a_template_puts_behind_it() -> None:
    # "hi", stop token 9, and the newline 3 that ChatML puts behind it.
    rendered = Rendered([1, 2, 9, 3], [False, True, True, False])
    assert cut_at_end(rendered) == Rendered([1, 2, 9], [False, True, True])


def test_pairs_are_chosen_first_with_the_lengths_of_their_answers() -> None:
    chosen, rejected = Rendered([1, 5, 9], [False, True, True]), Rendered([1, 9], [False, True])
    batch = collate_pairs([Pair(chosen, rejected, 0.5)], num_pairs=8)
    assert batch.input_ids.tolist() == [[1, 5, 9], [1, 9, 0]]
    assert batch.answer_lengths.tolist() == [2, 1]
    assert (batch.margin.tolist(), batch.num_pairs) == ([0.5], 8)


def test_a_row_that_only_fills_a_batch_has_nothing_to_learn() -> None:
    row = Rendered([1, 5, 9], [False, True, True])
    batch = collate_sft([row, unlabelled(row)], num_tokens=2)
    assert batch.loss_mask.sum(1).tolist() == [2, 0]


def test_every_prompt_is_used_once_before_any_is_used_again() -> None:
    chosen = [text for i in range(5) for text in iteration_prompts(prompts(10), 4, 1, seed=1, iteration=i).texts]
    assert sorted(chosen[:10]) == sorted(chosen[10:]) == sorted(str(i) for i in range(10))
    assert chosen[:10] != chosen[10:]


def test_a_rollout_may_be_larger_than_the_prompts() -> None:
    chosen = iteration_prompts(prompts(3), 7, 1, seed=1, iteration=0).texts
    assert {chosen.count(str(i)) for i in range(3)} == {2, 3}


def test_the_prompts_of_an_iteration_depend_on_seed_and_iteration_alone() -> None:
    def texts(seed: int, iteration: int) -> list[str]:
        return iteration_prompts(prompts(50), 8, 1, seed=seed, iteration=iteration).texts

    assert texts(1, 3) == texts(1, 3)
    assert texts(1, 3) != texts(2, 3)


def test_an_error_in_rendering_names_the_place() -> None:
    from lightning_rlhf.data.formats import Record
    from lightning_rlhf.data.reading import rendered

    def fail(record: Record) -> list[int]:
        raise UserError("no tokens")

    record = Record([{"role": "user", "content": "Hi"}], None, None, None, {}, "rows.jsonl:7")
    with pytest.raises(UserError, match="rows.jsonl:7: no tokens"):
        rendered([record], fail, len, path="rows.jsonl", max_length=4)


def test_rows_that_are_too_long_are_left_out_and_all_of_them_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    from lightning_rlhf.data.formats import Record
    from lightning_rlhf.data.reading import rendered

    records = [Record([], None, None, None, {"n": n}, f"rows:{n}") for n in (2, 9)]
    kept = rendered(records, lambda record: [0] * record.columns["n"], len, path="rows", max_length=4)
    assert [len(row) for row in kept] == [2]
    assert "left out 1 of 2 rows, longer than 4 tokens" in caplog.text
    with pytest.raises(UserError, match="all 2 rows are longer than 1 tokens"):
        rendered(records, lambda record: [0] * record.columns["n"], len, path="rows", max_length=1)
