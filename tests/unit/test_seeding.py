"""Random numbers depend on the seed and on what they are for, and on nothing else."""

import pytest
import torch
from torch.testing import assert_close

from lightning_rlhf.seeding import (
    EVALUATION,
    MINIBATCHES,
    PROMPTS,
    PTX,
    ROWS,
    SAMPLING,
    endless,
    generator,
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


def test_uniforms_lie_on_the_grid_of_fp64() -> None:
    numbers = uniforms((1000, 20), 1, ROWS)
    steps = numbers * 2.0**53
    assert torch.equal(steps, steps.round())
    assert float(steps.min()) > 0
    # Every second number of a grid of 2^-53 is an odd multiple of it; on a grid of 2^-24 none is. Of 20,000 numbers
    # the share lies within five standard errors, 5 * 0.5 / sqrt(20000) = 0.018.
    assert float((steps.long() % 2).double().mean()) == pytest.approx(0.5, abs=0.018)
