"""Random numbers depend on the seed and on their purpose, and on nothing else."""

import pytest
import torch
from torch.testing import assert_close

from lightning_rlhf import seeding
from lightning_rlhf.seeding import (
    EVALUATION,
    MINIBATCHES,
    PROMPTS,
    PTX,
    ROWS,
    SAMPLING,
    RandomKey,
    endless,
    generator,
    keyed_uniforms,
    permutation,
    uniforms,
)


def first_number(seed: int, *keys: int) -> int:
    return int(torch.randint(2**62, (), generator=generator(seed, *keys)))


def test_the_same_arguments_give_the_same_numbers() -> None:
    assert first_number(3, SAMPLING, 5) == first_number(3, SAMPLING, 5)
    assert permutation(10, 3, ROWS, 1) == permutation(10, 3, ROWS, 1)
    assert_close(uniforms((2, 3), 3, SAMPLING, 1), uniforms((2, 3), 3, SAMPLING, 1), rtol=0, atol=0)


def test_every_seed_use_and_iteration_has_numbers_of_its_own() -> None:
    uses = (PROMPTS, SAMPLING, MINIBATCHES, ROWS, EVALUATION, PTX)
    keys = [(seed, use, iteration) for seed in range(4) for use in uses for iteration in range(4)]
    assert len({first_number(*key) for key in keys}) == len(keys)


def test_no_global_state_is_read_or_written() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    numbers, order = uniforms((2, 3), 7), permutation(10, 7)
    assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    torch.manual_seed(1)
    assert_close(uniforms((2, 3), 7), numbers, rtol=0, atol=0)
    assert permutation(10, 7) == order


def test_a_permutation_has_each_number_once() -> None:
    assert sorted(permutation(50, 0, ROWS)) == list(range(50))
    assert permutation(50, 0, ROWS) != list(range(50))


def test_endless_passes_have_each_place_once_in_an_order_of_their_own_wherever_they_are_cut() -> None:
    whole = endless(5, 0, 25, 3, ROWS)
    passes = [whole[start : start + 5] for start in range(0, 25, 5)]
    assert [sorted(each) for each in passes] == [list(range(5))] * 5
    assert len({tuple(each) for each in passes}) > 1
    assert [place for first in range(0, 24, 3) for place in endless(5, first, 3, 3, ROWS)] == whole[:24]
    assert endless(5, 0, 25, 4, ROWS) != whole
    assert endless(5, 0, 25, 3, PTX) != whole


def test_uniforms_fill_the_interval_and_do_not_depend_on_the_rows_below() -> None:
    numbers = uniforms((1000, 20), 0, SAMPLING)
    assert 0 < float(numbers.min()) < 0.001
    assert 0.999 < float(numbers.max()) <= 1
    assert_close(uniforms((10, 20), 0, SAMPLING), numbers[:10], rtol=0, atol=0)


def test_each_key_gets_its_row_wherever_it_stands_and_whatever_stands_beside_it() -> None:
    first, second, third = (SAMPLING, 4), (SAMPLING, 5), (EVALUATION, 4)
    keys = [RandomKey(7, first, 3), RandomKey(7, second, 0), RandomKey(7, first, 1), RandomKey(7, third, 0)]
    keys.append(RandomKey(8, first, 3))
    numbers = keyed_uniforms(keys, 6)
    # All responses of an iteration, and an answer to a held-out prompt, have always been drawn in this way.
    iteration = uniforms((20, 6), 7, *first)
    expected = [iteration[3], uniforms((20, 6), 7, *second)[0], iteration[1], uniforms((1, 6), 7, *third)[0]]
    assert torch.equal(numbers, torch.stack([*expected, uniforms((20, 6), 8, *first)[3]]))
    assert keyed_uniforms([], 6).shape == (0, 6)


def test_the_numbers_of_a_stream_are_drawn_once_for_all_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def counting(shape: tuple[int, int], *keys: int) -> torch.Tensor:
        drawn.append((shape, keys))
        return uniforms(shape, *keys)

    monkeypatch.setattr(seeding, "uniforms", counting)
    keyed_uniforms([RandomKey(7, (SAMPLING, 4), row) for row in (5, 2, 9)], 6)
    assert drawn == [((10, 6), (7, SAMPLING, 4))]


def test_an_engine_that_draws_by_itself_gets_a_seed_from_each_key() -> None:
    keys = [RandomKey(seed, (SAMPLING, i), row) for seed in range(3) for i in range(3) for row in range(9)]
    seeds = {key.as_seed() for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert RandomKey(1, (SAMPLING, 2), 3).as_seed() == RandomKey(1, (SAMPLING, 2), 3).as_seed()


def test_uniforms_lie_on_the_grid_of_fp64() -> None:
    numbers = uniforms((1000, 20), 1, ROWS)
    steps = numbers * 2.0**53
    assert torch.equal(steps, steps.round())
    assert float(steps.min()) > 0
    # Every second number of a grid of 2^-53 is an odd multiple of it; on a grid of 2^-24 none is. The share in 20,000
    # numbers is within five standard errors, 5 * 0.5 / sqrt(20000) = 0.018.
    assert float((steps.long() % 2).double().mean()) == pytest.approx(0.5, abs=0.018)
