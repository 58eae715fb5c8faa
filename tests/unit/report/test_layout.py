"""The rows in which pictures are arranged."""

from lightning_rlhf.report.layout import rows


def test_no_row_of_pictures_is_half_empty() -> None:
    for count in range(40):
        sizes = rows(count)
        assert sum(sizes) == count
        assert set(sizes) <= {2, 3} or count == 1
    assert [rows(count) for count in (0, 1, 4, 5, 7)] == [[], [1], [2, 2], [3, 2], [3, 2, 2]]
