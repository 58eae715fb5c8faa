"""The same prompts are held out in every stage."""

import numpy as np
import pytest

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


def test_an_empty_side_is_an_error_with_numbers_and_remedy() -> None:
    with pytest.raises(UserError, match=r"val_fraction=0.5 splits 3 rows .* change val_fraction"):
        sides(["q"] * 3, 0.5)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_outside_of_0_to_1_is_an_error(fraction: float) -> None:
    with pytest.raises(UserError, match="val_fraction must lie between 0 and 1"):
        sides(["q"], fraction)
