"""Long and noisy curves."""

import numpy as np

from lightning_rlhf.report.run import Series
from lightning_rlhf.report.smoothing import smooth, thin, typical


def test_a_gap_survives_the_thinning_of_a_long_curve() -> None:
    x = np.arange(4000.0)
    thinned = thin(Series(x, np.where(x == 2005, np.nan, x)))
    assert len(thinned.y) == 400
    assert np.flatnonzero(np.isnan(thinned.y)).tolist() == [200]
    assert thinned.y[0] == 4.5


def test_each_value_of_a_noisy_curve_becomes_the_mean_of_its_neighbours() -> None:
    x = np.arange(60.0)
    y = np.where(x % 2 == 0, 1.0, -1.0)
    smoothed = smooth(Series(x, y))
    assert smoothed is not None
    # A window of 5 around an even place has three ones; that of the first place begins there, and has two of three.
    assert smoothed.y[[0, 20, 21]].tolist() == [1 / 3, 0.2, -0.2]
    assert np.array_equal(smoothed.x, x)


def test_a_gap_stays_a_gap_and_leaves_its_neighbours_alone() -> None:
    x = np.arange(60.0)
    y = np.where(x % 2 == 0, 1.0, -1.0)
    y[30] = np.nan
    smoothed = smooth(Series(x, y))
    assert smoothed is not None
    assert np.flatnonzero(np.isnan(smoothed.y)).tolist() == [30]
    # The window of place 29 has the values -1, 1, -1 and -1 beside the gap.
    assert smoothed.y[29] == -0.5


def test_short_and_smooth_curves_stay_as_they_are() -> None:
    x = np.arange(200.0)
    assert smooth(Series(x, np.exp(-x / 50))) is None
    assert smooth(Series(x[:19], np.where(x[:19] % 2 == 0, 1.0, -1.0))) is None


def test_outliers_are_not_typical() -> None:
    y = np.array([*np.linspace(1, 2, 100), 99.0, np.nan])
    kept = typical(Series(np.arange(102.0), y)).y
    assert kept.max() < 2
    assert kept.min() > 1
    assert len(kept) == 81
