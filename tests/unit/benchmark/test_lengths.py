"""The random lengths and tokens of a benchmark."""

import pytest

from lightning_rlhf.benchmark.lengths import prompt_lengths, random_ids, response_lengths


def test_prompts_have_every_length_between_the_bounds() -> None:
    lengths = prompt_lengths(1000, 8, 12, seed=1)
    assert set(lengths) == {8, 9, 10, 11, 12}
    assert lengths == prompt_lengths(1000, 8, 12, seed=1) != prompt_lengths(1000, 8, 12, seed=2)
    assert prompt_lengths(3, 5, 5, seed=1) == [5, 5, 5]


def test_geometric_lengths_have_the_mean_and_the_limit() -> None:
    lengths = response_lengths(20_000, mean=8, most=1000, seed=1)
    # The standard deviation of one length is about 8, that of the mean 8 / sqrt(20000) = 0.06.
    assert sum(lengths) / len(lengths) == pytest.approx(8, abs=0.25)
    # Of geometric lengths, 1 / 8 end at the first token.
    assert lengths.count(1) / len(lengths) == pytest.approx(1 / 8, abs=0.01)
    assert max(response_lengths(1000, mean=8, most=10, seed=1)) == 10


def test_excluded_tokens_are_not_drawn_and_all_others_are() -> None:
    rows = random_ids([200, 300], vocabulary=10, excluded=(3, 7), seed=1)
    assert [len(row) for row in rows] == [200, 300]
    assert {token for row in rows for token in row} == {0, 1, 2, 4, 5, 6, 8, 9}
