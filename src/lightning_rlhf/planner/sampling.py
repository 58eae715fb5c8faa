"""The memory of keys and values while the trained model itself samples (`rollout.engines.native`, `padded`)."""

from collections import Counter
from typing import NamedTuple

from lightning_rlhf.models.arranged import pays
from lightning_rlhf.models.columns import aligned, columns_taken, first_columns
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.memory import Bytes
from lightning_rlhf.planner.weights import Sizes


class Kept(NamedTuple):
    """The memory that the moments of sampling need in addition to weights and to the passes."""

    prefill: Bytes
    """While prompts are read."""
    moved: dict[str, Bytes]
    """While keys and values are copied, by what happens."""
    decoding: Bytes
    """While the last tokens are drawn."""


def arranged_size(job: Job, sizes: Sizes) -> int:
    """Bytes of the weights that the native engine arranges on a CPU while it samples."""
    comes_and_goes = job.layout.divides_weights and not job.layout.gather_for_generation
    if job.on_gpu or job.autocast or job.model.compile or comes_and_goes:
        return 0
    rows, calls = job.sampled_rows, job.sampled_response
    return sum(size for number, size in enumerate(sizes.arrangeable) if pays(rows, calls, transposed=number == 1))


def kept_in_batches(role: str, decoding: int, casts: int) -> Kept:
    """What the padded engine keeps, whose cache grows with the responses of a batch.

    Args:
        role: The role of the model.
        decoding: Bytes of the keys and values of all tokens.
        casts: Bytes of weights that autocast has cast.
    """
    return Kept(Counter(), {}, _kept(role, decoding, casts))


def kept_in_columns(job: Job, role: str, prefill: int, decoding: int, casts: int, blocks: int) -> Kept:
    """What the native engine keeps: one cache for all rows, and beside it the prompts that were read last.

    If there are more prompts than rows, or more than are read at a time, prompts are read while the cache exists. If
    there are more responses than rows, some wait beside it while others are being sampled.

    Args:
        job: The stage.
        role: The role of the model.
        prefill: Bytes of the keys and values of the prompts that are read at a time.
        decoding: Bytes of the keys and values of all rows, of which each lacks its last token.
        casts: Bytes of weights that autocast has cast.
        blocks: Number of layers.
    """
    prompt, response = job.sampled_prompt, job.sampled_response
    waits = job.num_requests > job.sampled_rows
    columns = columns_taken(prompt, response, rows_join=waits)
    cache = round(decoding * columns / (prompt + response - 1))
    reads_again = waits or job.num_prompts > job.read_rows
    moved = {"prompts are copied to the cache": _kept(role, cache + prefill, casts)}
    if columns > aligned(first_columns(prompt, response)):
        # Layers move to larger memory one after the other (`ColumnLayer.move`).
        beside = prefill if waits else 0
        moved["the cache grows"] = _kept(role, cache + cache // blocks + beside, casts)
    return Kept(
        _kept(role, cache, 0) if reads_again else Counter(),
        moved,
        _kept(role, cache + prefill if waits else cache, casts),
    )


def _kept(role: str, cache: int, casts: int) -> Bytes:
    return Counter({(role, "kv_cache"): cache, (role, "activations"): casts})
