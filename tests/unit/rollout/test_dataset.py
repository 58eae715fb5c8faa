"""Minibatches of a rollout, and texts mixed in: shared without loss, and continued where a run stopped."""

from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_rlhf.data.kinds import conversation_rows
from lightning_rlhf.data.render import Rendered
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Experience, Sequences
from lightning_rlhf.ops.aggregation import MinibatchSize
from lightning_rlhf.rollout.dataset import Minibatch, RolloutDataset
from lightning_rlhf.rollout.dropping import in_place
from lightning_rlhf.rollout.ptx import PTX

LIMIT = 5
# Texts of 2, 3, 4, ... tokens, of which all but the first are learnt.
TEXTS = [Rendered([100 + n] * (n + 2), [False] + [True] * (n + 1)) for n in range(7)]


def fake_trainer(world_size: int = 1, rank: int = 0, parts: int = 1) -> Any:
    return SimpleNamespace(world_size=world_size, global_rank=rank, accumulate_grad_batches=parts)


def experience(iteration: int, count: int, width: int = LIMIT) -> Experience:
    """Makes experience in which row r of iteration i has 100 · i + r as its first advantage, and 1 to 4 tokens."""
    mask = torch.arange(width) < (1 + torch.arange(count) % 4)[:, None]
    numbers = (100 * iteration + torch.arange(count))[:, None].expand(count, width).float()
    ids = torch.ones(count, 1 + width, dtype=torch.long)
    whole = torch.cat([torch.ones(count, 1, dtype=torch.bool), mask], dim=1)
    kl_coef, version = numbers[:, :1], torch.full((count, 1), iteration)
    return Experience(Sequences(ids, whole, mask), *[numbers] * 3, None, None, kl_coef, numbers, version)


def make_dataset(
    rollout_size: int = 12,
    minibatch_size: int = 4,
    trainer: Any = None,
    *,
    ptx: bool = False,
    seed: int = 0,
    width: int = LIMIT,
    max_length: int = LIMIT,
) -> RolloutDataset:
    trainer = trainer or fake_trainer()
    return RolloutDataset(
        lambda iteration: experience(iteration, rollout_size, width),
        rollout_batch_size=rollout_size,
        minibatch_size=minibatch_size,
        ppo_epochs=2,
        max_length=max_length,
        trainer=trainer,
        seed=seed,
        ptx=PTX(conversation_rows(TEXTS), minibatch_size=minibatch_size, trainer=trainer, seed=seed) if ptx else None,
    )


def rows_of(batches: list[Minibatch]) -> list[int]:
    return [int(row) for batch in batches for row in batch.experience.advantages[:, 0]]


def texts_of(batches: list[Minibatch]) -> list[int]:
    return [int(row) - 100 for batch in batches if batch.ptx for row in batch.ptx.input_ids[:, 0]]


def test_an_iteration_reads_every_row_once_in_each_epoch_in_an_order_of_its_own() -> None:
    dataset = make_dataset()
    first, second = list(dataset), list(dataset)
    assert len(first) == len(dataset) == 6
    orders = [rows_of(batches) for batches in (first[:3], first[3:], second[:3], second[3:])]
    assert [sorted(order) for order in orders] == 2 * [list(range(12))] + 2 * [list(range(100, 112))]
    assert len({tuple(row % 100 for row in order) for order in orders}) == 4


@given(
    st.sampled_from([(1, 1), (1, 8), (2, 4), (4, 2), (8, 1), (2, 2)]),
    st.integers(1, 2),
    st.booleans(),
    st.integers(0, 3),
)
def test_ranks_and_parts_share_each_minibatch_and_its_texts_without_loss(
    shares: tuple[int, int], rows_each: int, ptx: bool, seed: int
) -> None:
    world_size, parts = shares
    size = world_size * parts * rows_each
    whole = list(make_dataset(2 * size, size, ptx=ptx, seed=seed))
    ranks = [
        list(make_dataset(2 * size, size, fake_trainer(world_size, rank, parts), ptx=ptx, seed=seed))
        for rank in range(world_size)
    ]
    assert {len(rank) for rank in ranks} == {len(whole) * parts}
    for number, minibatch in enumerate(whole):
        shared = [batch for rank in ranks for batch in rank[number * parts : (number + 1) * parts]]
        # Parts get rows of their own, so that they have equally many tokens.
        assert sorted(rows_of(shared)) == sorted(rows_of([minibatch]))
        assert texts_of(shared) == texts_of([minibatch])
        num_tokens = sum(1 + row % 100 % 4 for row in rows_of(shared))
        assert {batch.size for batch in shared} == {MinibatchSize(size, num_tokens, LIMIT)} == {minibatch.size}
        if ptx:
            num_labels = sum(text + 1 for text in texts_of(shared))
            assert {batch.ptx.num_tokens for batch in shared if batch.ptx} == {num_labels}


def test_the_width_of_the_experience_is_not_the_length_limit() -> None:
    """No response has more than four tokens, so a rollout may leave out the fifth column."""
    trimmed, wide = list(make_dataset(width=4)), list(make_dataset())
    assert [batch.size for batch in trimmed] == [batch.size for batch in wide]
    assert {batch.size.max_length for batch in trimmed} == {LIMIT}


def test_a_new_length_limit_holds_from_the_next_iteration_on() -> None:
    stopped, resumed = make_dataset(max_length=7), make_dataset(max_length=8)
    list(islice(stopped, 2))
    resumed.go_on(stopped.progress())
    # The rest of the first iteration was sampled under the old limit, as were the six minibatches of a stopped run.
    assert [batch.size.max_length for batch in [*resumed, *resumed]] == 4 * [7] + 6 * [8]
    again = make_dataset(max_length=9)
    resumed.go_on(stopped.progress())
    list(islice(resumed, 1))
    again.go_on(resumed.progress())
    assert {batch.size.max_length for batch in again} == {7}


def test_texts_come_in_passes_that_go_on_over_minibatches_and_iterations() -> None:
    dataset = make_dataset(ptx=True)
    texts = texts_of([*dataset, *dataset])
    # There are seven texts, and four for each of twelve minibatches.
    assert len(texts) == 48
    passes = [texts[start : start + 7] for start in range(0, 42, 7)]
    assert all(sorted(each) == list(range(7)) for each in passes)
    assert len({tuple(each) for each in passes}) > 1


@pytest.mark.parametrize("num_seen", range(0, 25, 2))
def test_a_restored_data_set_goes_on_with_the_next_minibatch_and_its_texts(num_seen: int) -> None:
    def read(dataset: RolloutDataset, count: int) -> tuple[list[int], list[int]]:
        # A trainer also makes a new iterator in each epoch.
        batches: list[Minibatch] = []
        while len(batches) < count:
            batches += islice(dataset, count - len(batches))
        return rows_of(batches), texts_of(batches)

    trainer = fake_trainer(parts=2)
    stopped, resumed = make_dataset(trainer=trainer, ptx=True), make_dataset(trainer=trainer, ptx=True)
    seen = read(stopped, num_seen)
    resumed.go_on(stopped.progress())
    left = read(resumed, 36 - num_seen)
    assert (seen[0] + left[0], seen[1] + left[1]) == read(make_dataset(trainer=trainer, ptx=True), 36)


@pytest.mark.parametrize(("minibatch_size", "parts"), [(4, 2), (2, 1), (12, 1), (6, 3)])
def test_a_restored_data_set_may_have_minibatches_of_another_size_or_in_other_parts(
    minibatch_size: int, parts: int
) -> None:
    order = rows_of(list(make_dataset()))
    stopped = make_dataset()
    # Three minibatches of four are the first of two passes over twelve rows.
    list(islice(stopped, 3))
    resumed = make_dataset(12, minibatch_size, fake_trainer(parts=parts))
    resumed.go_on(stopped.progress())
    found, expected = rows_of(list(resumed)), order[12:]
    assert len(found) == len(expected)
    # The same minibatches; the order in a minibatch depends on how it is dealt to its parts.
    for start in range(0, 12, minibatch_size):
        minibatch = slice(start, start + minibatch_size)
        assert sorted(found[minibatch]) == sorted(expected[minibatch])


def test_a_place_in_an_iteration_that_is_none_any_more_is_an_error_with_old_and_new_value() -> None:
    stopped = make_dataset()
    list(islice(stopped, 1))
    with pytest.raises(UserError, match=r"minibatch_size was 4 .* is 6 now, .* after the 4 rows"):
        make_dataset(12, 6).go_on(stopped.progress())
    with pytest.raises(UserError, match="rollout_batch_size was 12 and is 24 now: continue with the old value"):
        make_dataset(24, 4).go_on(stopped.progress())
    list(stopped)
    resumed = make_dataset(24, 6)
    resumed.go_on(stopped.progress())
    assert sorted(rows_of(list(resumed))) == sorted([*range(100, 124)] * 2)


def test_a_checkpoint_holds_the_experience_only_while_it_is_needed(tmp_path: Any) -> None:
    dataset = make_dataset()
    assert dataset.progress()["buffer"] is None
    list(islice(dataset, 2))
    torch.save(dataset.progress(), tmp_path / "progress.pt")
    buffer = torch.load(tmp_path / "progress.pt", weights_only=True)["buffer"]
    present = {name for name, tensor in buffer.items() if tensor is not None and len(tensor) == 12}
    assert {name for name, tensor in buffer.items() if tensor is None} == {"old_values", "returns"}
    assert present | {"old_values", "returns"} == {*Sequences._fields, *Experience._fields} - {"sequences"}
    list(dataset)
    assert dataset.progress()["buffer"] is None


def test_an_experience_is_saved_by_the_names_of_its_fields_not_by_their_places() -> None:
    stopped, resumed = make_dataset(), make_dataset()
    list(islice(stopped, 2))
    progress = stopped.progress()
    saved = progress["buffer"]
    progress["buffer"] = dict(reversed(saved.items()))
    resumed.go_on(progress)
    assert len(list(resumed)) == 4
    assert resumed.experience is not None
    restored = resumed.experience.by_name()
    assert list(restored) == [*Sequences._fields, *Experience._fields[1:]]
    assert all(tensor is saved[name] for name, tensor in restored.items())


@pytest.mark.parametrize("other", ["another", None])
def test_an_experience_of_other_fields_is_an_error_that_names_them(other: str | None) -> None:
    stopped = make_dataset()
    list(islice(stopped, 2))
    progress = stopped.progress()
    numbers = progress["buffer"].pop("weights_version")
    if other:
        progress["buffer"][other] = numbers
    with pytest.raises(UserError, match="experience differs in (another, )?weights_version: resume with that version"):
        make_dataset().go_on(progress)


@pytest.mark.parametrize(
    ("sizes", "world_size", "message"),
    [
        ((12, 5), 1, "rollout_batch_size=12 is not divisible by minibatch_size=5"),
        ((10, 5), 4, "rollout_batch_size=10 is not divisible by 4 processes"),
        ((12, 6), 4, "minibatch_size=6 is not divisible by 4 = 4 processes x accumulate_grad_batches=1"),
    ],
)
def test_sizes_that_do_not_divide_are_named(sizes: tuple[int, int], world_size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_dataset(*sizes, fake_trainer(world_size))


def test_dropped_rows_have_no_tokens_and_the_others_are_where_they_were() -> None:
    whole = experience(0, 6)
    kept = [1, 2, 5]
    found = in_place(whole.rows(kept), kept, 6)
    lengths = found.sequences.response_mask.sum(1).tolist()
    # Row r has 1 + r % 4 tokens.
    assert lengths == [0, 2, 3, 0, 0, 2]
    assert found.advantages[kept, 0].tolist() == kept
    assert in_place(whole, list(range(6)), 6) is whole


def test_a_minibatch_counts_the_responses_that_are_left() -> None:
    def collect(iteration: int) -> Experience:
        # The first eight rows are dropped, so one of three minibatches may have no token at all.
        return in_place(experience(iteration, 12).rows([8, 9, 10, 11]), [8, 9, 10, 11], 12)

    dataset = RolloutDataset(
        collect, rollout_batch_size=12, minibatch_size=4, ppo_epochs=2, max_length=5, trainer=fake_trainer(), seed=3
    )
    batches = list(dataset)
    for batch in batches:
        lengths = batch.experience.sequences.response_mask.sum(1)
        assert batch.size == MinibatchSize(max(int((lengths > 0).sum()), 1), max(int(lengths.sum()), 1), 5)
    # Each pass reads 1 + 2 + 3 + 4 tokens.
    assert sum(int(batch.experience.sequences.response_mask.sum()) for batch in batches) == 2 * 10
