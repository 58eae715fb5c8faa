"""The axes of the picture in parallel coordinates, and the lines between them."""

import pytest

from lightning_rlhf.report.comparison.parallel import HEIGHT, MARGIN, axis, line, spacing


def test_numbers_have_their_place_between_the_smallest_and_the_largest() -> None:
    found = axis("kl_coef", ["0.1", "0.2", "0.5"])
    # (0.2 - 0.1) / (0.5 - 0.1)
    assert found.places == pytest.approx((0.0, 0.25, 1.0))
    assert [text for _, text in found.ticks] == ["0.1", "0.2", "0.5"]
    assert not found.logarithmic


def test_settings_that_span_powers_of_ten_have_a_logarithmic_axis() -> None:
    found = axis("lr", ["1e-5", "1e-4", "1e-3"])
    assert found.logarithmic
    assert found.places == pytest.approx((0.0, 0.5, 1.0))
    # Results keep a linear axis, on which distances are comparable.
    assert not axis("kl", [1e-5, 1e-4, 1e-3], is_metric=True).logarithmic


def test_names_are_spread_evenly_in_the_order_in_which_they_occur() -> None:
    found = axis("algorithm", ["ppo", "grpo", "ppo", "rloo"])
    assert found.places == (0.0, 0.5, 0.0, 1.0)
    assert found.ticks == ((0.0, "ppo"), (0.5, "grpo"), (1.0, "rloo"))
    # One word among numbers makes all of them names.
    assert axis("max_steps", ["null", "100"]).ticks == ((0.0, "null"), (1.0, "100"))


def test_no_label_is_written_over_another_one() -> None:
    found = axis("lr", ["0.1", "0.101", "0.2"])
    assert [text for _, text in found.ticks] == ["0.1", "0.2"]
    assert found.places == (0.0, pytest.approx(0.01), 1.0)


def test_a_metric_of_which_all_values_are_the_same_is_in_the_middle() -> None:
    assert axis("gold", [0.5, 0.5], is_metric=True).places == (0.5, 0.5)


def test_a_metric_that_a_run_does_not_have_or_that_is_not_finite_has_no_place() -> None:
    found = axis("score", [1.0, None, float("nan"), 3.0], is_metric=True)
    assert found.places == (0.0, None, None, 1.0)


def test_a_line_goes_through_the_places_of_its_run_and_has_a_gap_where_there_is_none() -> None:
    axes = [axis("a", ["0", "1"]), axis("b", [None, 2.0], is_metric=True), axis("c", [5.0, 6.0], is_metric=True)]
    # The lower end of an axis is at HEIGHT, because the y axis of a picture points down.
    assert line(axes, 0) == f"M{MARGIN} {HEIGHT}.0M{MARGIN + 2 * spacing(axes)} {HEIGHT}.0"
    middle = HEIGHT / 2
    assert line(axes, 1) == f"M{MARGIN} 0.0L{MARGIN + spacing(axes)} {middle}L{MARGIN + 2 * spacing(axes)} 0.0"
