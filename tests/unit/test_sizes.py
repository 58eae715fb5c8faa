"""Sizes in the form in which people write and read them."""

import pytest

from lightning_rlhf.errors import UserError
from lightning_rlhf.sizes import parse_bytes, readable


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("80GB", 80 * 10**9),
        ("24GiB", 24 * 2**30),
        ("1.5MB", 1_500_000),
        ("2KB", 2000),
        ("5 TB", 5 * 10**12),
        ("7", 7),
        (1024, 1024),
        ("1e3", 1000),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str | int, size: int) -> None:
    assert parse_bytes(text, "device_memory") == size


@pytest.mark.parametrize("text", ["", "0GB", "GB", "five", "1.2.3GB", "80XB", "-1GB", 0])
def test_a_size_that_is_none_is_a_mistake(text: str | int) -> None:
    with pytest.raises(UserError, match=rf"max_shard_size={text}: expected a size such as 80GB"):
        parse_bytes(text, "max_shard_size")


def test_sizes_are_written_as_people_read_them() -> None:
    sizes = [0, 1023, 1024, 1.5 * 2**20, 2**30, 1402 * 2**30]
    assert [readable(size) for size in sizes] == ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "1.0 GiB", "1,402.0 GiB"]
