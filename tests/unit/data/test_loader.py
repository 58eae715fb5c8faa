"""Minibatches: every row occurs once, none is lost in sharing, and a restored loader continues where it stopped."""

from itertools import compress, islice
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_rlhf.data.loader import MinibatchLoader, OrderedLoader
from lightning_rlhf.errors import UserError

Batch = tuple[list[int], int]


def fake_trainer(world_size: int = 1, rank: int = 0, parts: int = 1) -> SimpleNamespace:
    return SimpleNamespace(world_size=world_size, global_rank=rank, accumulate_grad_batches=parts)


def make_loader(
    num_rows: int = 12,
    minibatch_size: int = 4,
    seed: int = 0,
    trainer: SimpleNamespace | None = None,
    *,
    drop_last: bool = False,
) -> MinibatchLoader:
    """Returns a loader of the rows 0, 1, 2, ..., which have the sizes 1, 2, 3, ..."""
    return MinibatchLoader(
        range(num_rows),
        lambda rows, counts, size: (list(compress(rows, counts)), size),
        np.arange(num_rows) + 1,
        minibatch_size=minibatch_size,
        drop_last=drop_last,
        trainer=trainer or fake_trainer(),
        seed=seed,
    )


def rows_of(batches: list[Batch]) -> list[int]:
    return [row for rows, _ in batches for row in rows]


def test_an_epoch_has_every_row_once_and_an_order_of_its_own() -> None:
    loader = make_loader()
    epochs = [list(loader) for _ in range(3)]
    assert [len(epoch) for epoch in epochs] == [len(loader)] * 3 == [3, 3, 3]
    assert [sorted(rows_of(epoch)) for epoch in epochs] == [list(range(12))] * 3
    assert len({tuple(rows_of(epoch)) for epoch in epochs}) == 3


def test_the_order_depends_on_the_seed_alone() -> None:
    first, again, other = make_loader(seed=5), make_loader(seed=5), make_loader(seed=6)
    for _ in range(2):
        epoch = list(first)
        assert epoch == list(again)
        assert epoch != list(other)


def test_rows_that_fill_no_minibatch_are_a_smaller_one() -> None:
    loader = make_loader(num_rows=14)
    epoch = list(loader)
    assert len(epoch) == len(loader) == 4
    assert [len(rows) for rows, _ in epoch] == [4, 4, 4, 2]
    assert sorted(rows_of(epoch)) == list(range(14))
    # The size of a row is its number plus one.
    assert epoch[-1][1] == sum(epoch[-1][0]) + 2


@given(st.sampled_from([(1, 1), (1, 4), (2, 1), (2, 2), (3, 2), (4, 3)]), st.integers(1, 11), st.integers(0, 3))
def test_ranks_and_parts_share_the_smaller_minibatch_in_batches_of_equal_size(
    shares: tuple[int, int], rest: int, seed: int
) -> None:
    world_size, parts = shares
    # Whole minibatches have 12 rows, and the last has `rest`.
    ranks = []
    for rank in range(world_size):
        loader = make_loader(12 + rest, 12, seed, fake_trainer(world_size, rank, parts))
        loader.collate = lambda rows, counts, size: (rows, counts, size)
        ranks.append(list(loader))
    assert {len(rank) for rank in ranks} == {2 * parts}
    last = [batch for rank in ranks for batch in rank[parts:]]
    assert len({len(rows) for rows, _, _ in last}) == 1
    counted = [row for rows, counts, _ in last for row in compress(rows, counts)]
    assert len(counted) == len(set(counted)) == rest
    assert {size for _, _, size in last} == {sum(counted) + rest}
    whole = [row for rank in ranks for rows, counts, _ in rank[:parts] for row in compress(rows, counts)]
    assert sorted(whole + counted) == list(range(12 + rest))


def test_rows_that_fill_no_minibatch_are_left_out_of_the_epoch_if_asked() -> None:
    loader = make_loader(num_rows=14, drop_last=True)
    epoch = rows_of(list(loader))
    assert len(epoch) == len(set(epoch)) == 12
    left_out = set(range(14)) - set(epoch)
    assert any(left_out & set(rows_of(list(loader))) for _ in range(5))


@given(st.sampled_from([(1, 1), (1, 4), (2, 1), (2, 2), (3, 2), (4, 3)]), st.integers(1, 2), st.integers(0, 3))
def test_ranks_and_parts_share_each_minibatch_without_loss(shares: tuple[int, int], rows_each: int, seed: int) -> None:
    world_size, parts = shares
    size = world_size * parts * rows_each
    whole = list(make_loader(num_rows=2 * size, minibatch_size=size, seed=seed))
    ranks = [
        list(make_loader(2 * size, size, seed, fake_trainer(world_size, rank, parts))) for rank in range(world_size)
    ]
    assert {len(rank) for rank in ranks} == {2 * parts}
    for number, (rows, num_tokens) in enumerate(whole):
        shared = [batch for rank in ranks for batch in rank[number * parts : (number + 1) * parts]]
        assert all(len(batch) == rows_each for batch, _ in shared)
        assert rows_of(shared) == rows
        assert {size for _, size in shared} == {num_tokens} == {sum(row + 1 for row in rows)}


# A minibatch consists of two parts here, and checkpoints are written after whole minibatches.
@pytest.mark.parametrize("num_seen", range(0, 13, 2))
def test_a_restored_loader_continues_with_the_next_batch(num_seen: int) -> None:
    def endless(loader: MinibatchLoader) -> list[Batch]:
        # A trainer also makes a new iterator in each epoch.
        batches: list[Batch] = []
        while len(batches) < 14:
            batches += loader
        return batches

    def make() -> MinibatchLoader:
        return make_loader(trainer=fake_trainer(world_size=2, rank=1, parts=2))

    stopped, resumed = make(), make()
    seen: list[Batch] = []
    while len(seen) < num_seen:
        seen += islice(stopped, num_seen - len(seen))
    resumed.go_on(stopped.progress())
    assert (seen + endless(resumed))[:14] == endless(make())[:14]


@pytest.mark.parametrize(("minibatch_size", "parts"), [(4, 2), (2, 1), (8, 1), (8, 4)])
def test_a_restored_loader_may_have_minibatches_of_another_size_or_in_other_parts(
    minibatch_size: int, parts: int
) -> None:
    order = rows_of(list(make_loader(num_rows=24)))
    stopped = make_loader(num_rows=24)
    list(islice(stopped, 2))
    resumed = make_loader(24, minibatch_size, trainer=fake_trainer(parts=parts))
    resumed.go_on(stopped.progress())
    # Two minibatches of four were read.
    assert rows_of(list(resumed)) == order[8:]
    assert sorted(rows_of(list(resumed))) == list(range(24))


def test_an_epoch_that_is_over_is_no_place_in_the_next_one() -> None:
    stopped = make_loader(num_rows=24)
    list(stopped)
    # 24 rows are past the end of twelve rows, and no minibatch of five begins there.
    resumed = make_loader(num_rows=12, minibatch_size=5)
    resumed.go_on(stopped.progress())
    assert len(rows_of(list(resumed))) == 12


def test_a_place_that_does_not_exist_any_more_is_an_error_with_old_and_new_value() -> None:
    stopped = make_loader(num_rows=24)
    list(islice(stopped, 2))
    with pytest.raises(UserError, match=r"minibatch_size was 4 .* is 6 now, .* size that divides 8"):
        make_loader(24, 6).go_on(stopped.progress())
    with pytest.raises(UserError, match=r"had 24 rows .* after 8 rows of an epoch, and have 8 now"):
        make_loader(8).go_on(stopped.progress())


def test_an_iterator_that_is_never_read_loses_nothing() -> None:
    loader, undisturbed = make_loader(), list(make_loader())
    iter(loader)
    batches = list(islice(loader, 2))
    iter(loader)
    assert batches + list(loader) == undisturbed


@pytest.mark.parametrize("size", [0, 5, 7])
def test_a_minibatch_that_cannot_be_shared_equally_is_an_error_with_all_numbers(size: int) -> None:
    with pytest.raises(UserError, match=rf"minibatch_size={size} .* 6 = 3 processes x accumulate_grad_batches=2"):
        make_loader(minibatch_size=size, trainer=fake_trainer(world_size=3, parts=2))


def test_fewer_rows_than_a_minibatch_are_one_minibatch() -> None:
    assert [len(list(make_loader(num_rows=rows))) for rows in (3, 4)] == [1, 1]
    with pytest.raises(UserError, match="only 3 rows to train on, fewer than the 4 = processes x"):
        make_loader(num_rows=3, trainer=fake_trainer(world_size=2, parts=2))


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 5))
def test_one_ordered_pass_counts_every_row_once_on_equal_batches(
    num_rows: int, batch_size: int, world_size: int
) -> None:
    def collate(places: list[int], counts: list[bool]) -> tuple[list[int], list[bool]]:
        return places, counts

    loaders = [
        OrderedLoader(num_rows, collate, batch_size=batch_size, trainer=fake_trainer(world_size, rank))
        for rank in range(world_size)
    ]
    ranks = [list(loader) for loader in loaders]
    assert {len(rank) for rank in ranks} == {len(loaders[0])}
    counted, num_fillers = [], 0
    # The batches of all ranks, step by step.
    for step in zip(*ranks, strict=True):
        assert len({len(places) for places, _ in step}) == 1
        assert len(step[0][0]) <= batch_size
        assert all(0 <= place < num_rows for places, _ in step for place in places)
        counted += [place for places, counts in step for place, count in zip(places, counts, strict=True) if count]
        num_fillers += sum(not count for _, counts in step for count in counts)
    assert counted == list(range(num_rows))
    assert num_fillers < world_size
