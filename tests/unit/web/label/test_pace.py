"""How fast a person chooses."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from lightning_rlhf.web.label.choices import Choice
from lightning_rlhf.web.label.pace import choices_a_minute


def at(make_choice: Callable[..., Choice], *seconds: float) -> list[Choice]:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    return [make_choice("item0", time=(begin + timedelta(seconds=after)).isoformat()) for after in seconds]


def test_the_rate_is_that_of_the_last_choices_without_breaks(make_choice: Callable[..., Choice]) -> None:
    # Gaps of 10, 20 and 30 seconds, and a break of an hour: 3 choices a minute.
    assert choices_a_minute(at(make_choice, 0, 10, 30, 3630, 3660)) == 3
    # Of 40 choices that took 60 seconds each and 20 that took 6, the last 20 count.
    slow = [60.0 * n for n in range(41)]
    assert choices_a_minute(at(make_choice, *slow, *(2400 + 6.0 * n for n in range(1, 21)))) == 10


def test_one_choice_has_no_rate(make_choice: Callable[..., Choice]) -> None:
    assert choices_a_minute([]) is choices_a_minute(at(make_choice, 0)) is None
