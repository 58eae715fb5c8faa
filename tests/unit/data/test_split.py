"""The same prompts are held out in every stage."""

import numpy as np
import pytest

from lightning_rlhf.data.adapting import collected
from lightning_rlhf.data.split import position, split_by_position
from lightning_rlhf.errors import UserError


def positions(prompts: list[str]) -> np.ndarray:
    return np.asarray([position([{"role": "user", "content": prompt}]) for prompt in prompts])


def sides(prompts: list[str], fraction: float) -> tuple[list[str], list[str]]:
    train, val = split_by_position(positions(prompts), fraction)
    return [prompts[place] for place in train], [prompts[place] for place in val]


def test_a_prompt_falls_on_the_same_side_whatever_its_place_and_the_space_around_it() -> None:
    one = sides([f"q{n}" for n in range(200)], 0.3)
    other = sides([f" q{n}\n" for n in reversed(range(200))], 0.3)
    assert [set(side) for side in one] == [{prompt.strip() for prompt in side} for side in other]
    assert 30 <= len(one[1]) <= 90


def test_the_split_is_the_same_in_every_process() -> None:
    assert sides([f"q{n}" for n in range(12)], 0.5)[1] == ["q1", "q2", "q4", "q7", "q9", "q11"]


def test_rows_with_one_prompt_stay_together_and_in_order() -> None:
    prompts = [f"q{n % 20}" for n in range(100)]
    train, val = split_by_position(positions(prompts), 0.4)
    assert sorted([*train, *val]) == list(range(100))
    for side in (train, val):
        assert list(side) == sorted(side)
        assert len(side) == 5 * len({prompts[place] for place in side})


def test_the_first_prompt_is_held_out_if_the_fraction_holds_out_none() -> None:
    # Ten positions from 0.05 to 0.95; the row at 0.05 stands twice.
    rows = np.asarray([0.95, 0.05, 0.35, 0.05, 0.55])
    with collected() as notes:
        train, val = split_by_position(rows, 0.05)
    assert (train.tolist(), val.tolist()) == ([0, 2, 4], [1, 3])
    assert notes == ["val_fraction=0.05 would hold out none of 4 prompts, so one is held out"]


def test_the_last_prompt_is_trained_on_if_the_fraction_holds_out_all() -> None:
    with collected() as notes:
        train, val = split_by_position(np.asarray([0.1, 0.3, 0.2]), 0.5)
    assert (train.tolist(), val.tolist()) == ([1], [0, 2])
    assert notes == ["val_fraction=0.5 would hold out all of 3 prompts, so one is trained on"]


def test_only_prompts_with_a_row_that_is_used_count() -> None:
    positions, usable = np.asarray([0.01, 0.4, 0.2, 0.6]), np.asarray([False, True, True, True])
    # The first row would be held out, and then left out, so that nothing is left.
    with collected():
        train, val = split_by_position(positions, 0.05, usable)
    assert (train.tolist(), val.tolist()) == ([1, 3], [0, 2])


def test_a_split_that_has_both_sides_is_not_changed() -> None:
    with collected() as notes:
        assert [side.tolist() for side in split_by_position(np.asarray([0.04, 0.3]), 0.05)] == [[1], [0]]
    assert notes == []


def test_one_prompt_cannot_be_on_both_sides() -> None:
    with pytest.raises(UserError, match=r"val_fraction=0.5: 3 rows have one prompt .* add rows with other prompts"):
        sides(["q"] * 3, 0.5)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_outside_of_0_to_1_is_an_error(fraction: float) -> None:
    with pytest.raises(UserError, match="val_fraction must lie between 0 and 1"):
        sides(["q"], fraction)
