"""Validation data: the same prompts in every stage."""

import pytest

from lightning_rlhf.data.formats import Message, Record
from lightning_rlhf.data.split import split_by_prompt
from lightning_rlhf.errors import UserError


def record(prompt: str, answer: str = "x", source: str = "a:1") -> Record:
    messages: list[Message] = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return Record(messages, None, None, None, {}, source)


def prompts(records: list[Record]) -> list[str]:
    return [found.prompt[0]["content"].strip() for found in records]


def test_a_prompt_falls_on_the_same_side_whatever_else_differs() -> None:
    one = split_by_prompt([record(f"q{n}", "x") for n in range(200)], 0.3)
    other = split_by_prompt([record(f" q{n}\n", "y", "b:9") for n in reversed(range(200))], 0.3)
    assert set(prompts(one[1])) == set(prompts(other[1]))
    assert set(prompts(one[0])) == set(prompts(other[0]))
    assert 30 <= len(one[1]) <= 90


def test_the_split_is_the_same_in_every_process() -> None:
    _, val = split_by_prompt([record(f"q{n}") for n in range(12)], 0.5)
    assert prompts(val) == ["q1", "q2", "q4", "q7", "q9", "q11"]


def test_rows_with_one_prompt_stay_together_and_in_order() -> None:
    train, val = split_by_prompt([record(f"q{n % 20}", str(n)) for n in range(100)], 0.4)
    assert set(prompts(train)).isdisjoint(prompts(val))
    for side in (train, val):
        numbers = [int(found.messages[-1]["content"]) for found in side]
        assert numbers == sorted(numbers)
        assert len(numbers) == 5 * len(set(prompts(side)))


def test_an_empty_side_is_an_error_with_numbers_and_remedy() -> None:
    with pytest.raises(UserError, match=r"val_fraction=0.5 splits 3 rows .* change val_fraction"):
        split_by_prompt([record("q")] * 3, 0.5)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_outside_of_0_to_1_is_an_error(fraction: float) -> None:
    with pytest.raises(UserError, match="val_fraction must lie between 0 and 1"):
        split_by_prompt([record("q")], fraction)
