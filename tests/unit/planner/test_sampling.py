"""The keys and values that a rollout keeps, by hand and compared with what the native engine takes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_jobs import SOURCE, job

from lightning_rlhf.models import arranged
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.column_cache import ColumnCache
from lightning_rlhf.models.columns import columns_taken
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.planner import phases
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.layout import Layout
from lightning_rlhf.planner.phases import moments, run_passes
from lightning_rlhf.planner.sampling import arranged_size
from lightning_rlhf.rollout.engines import rows
from lightning_rlhf.rollout.engines.engine import Request
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.engines.waiting import Read, Waiting
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey

COLUMN = 5 * 32 * 2 * 4
"""Bytes of a token in five blocks: 32 numbers of 4 bytes, twice."""


def kept(**changes: Any) -> dict[str, int]:
    """The largest number of tokens whose keys and values are kept, by moment."""
    found: dict[str, int] = {}
    for moment in moments(job(**changes)):
        if moment.phase == "rollout":
            name = moment.what.partition(" actor ")[0]
            size, rest = divmod(moment.held["actor", "kv_cache"], COLUMN)
            assert rest == 0
            found[name] = max(found.get(name, 0), size)
    return found


COPIED, GROWS = "prompts are copied to the cache", "the cache grows"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # Three rows of 8 + 6 tokens have 16 columns, since columns come in eights. Three prompts lie beside them once.
        ({"rollout_batch_size": 3}, {"prefill": 0, COPIED: 3 * 16 + 3 * 8, "decoding": 3 * 16}),
        # Eight responses in three rows: the prompts that are read next wait beside the cache.
        ({}, {"prefill": 3 * 16, COPIED: 3 * 16 + 3 * 8, "decoding": 3 * 16 + 3 * 8}),
        # Only two of three prompts are read at a time, so the third is read beside the cache.
        (
            {"rollout_batch_size": 3, "prefill_tokens": 23},
            {"prefill": 3 * 16, COPIED: 3 * 16 + 2 * 8, "decoding": 3 * 16},
        ),
        # Two responses to each of two prompts.
        (
            {"rollout_batch_size": 4, "rollout_micro_batch_size": 4, "samples_per_prompt": 2},
            {"prefill": 0, COPIED: 4 * 16 + 2 * 8, "decoding": 4 * 16},
        ),
        ({"max_rows": 2}, {"prefill": 2 * 16, COPIED: 2 * 16 + 2 * 8, "decoding": 2 * 16 + 2 * 8}),
        # 64 + 64 // 3 + 64 columns, then a third more and 16, in eights: 152, 224, 320, 448, 616. A fifth layer moves.
        (
            {"rollout_batch_size": 5, "rollout_micro_batch_size": 5, "prompt_length": 64, "response_length": 512},
            {"prefill": 0, COPIED: 5 * (616 + 64), GROWS: 6 * 616, "decoding": 5 * 616},
        ),
        # An eighth more than 576 columns, and one, in eights, are never exceeded.
        (
            {"rollout_micro_batch_size": 5, "prompt_length": 64, "response_length": 512},
            {"prefill": 5 * 656, COPIED: 5 * 720, GROWS: 6 * 656 + 5 * 64, "decoding": 5 * 720},
        ),
        # The padded engine has a column for each token but the last.
        ({"prefill_tokens": None}, {"prefill": 0, "decoding": 3 * 13}),
    ],
)
def test_a_rollout_keeps_a_cache_for_its_rows_and_the_prompts_that_were_read(
    changes: dict[str, Any], expected: dict[str, int]
) -> None:
    assert kept(**{"prefill_tokens": 4096} | changes) == expected


MATRICES = 5 * (32 * 96 + 32 * 32 + 2 * 32 * 128) * 4
"""Bytes of the matrices of five blocks."""
LLAMA = ModelSource(
    config={
        "model_type": "llama",
        "vocab_size": 100,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
    },
    tokenizer="none",
)
PAYS = {"prefill_tokens": 4096, "max_rows": 5, "response_length": 16}


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="needs MKL")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (PAYS, MATRICES),
        (PAYS | {"model": LLAMA}, 2 * (4 * 32 * 32 + 3 * 32 * 64) * 4),
        (PAYS | {"max_rows": 4}, 0),
        (PAYS | {"response_length": 15}, 0),
        (PAYS | {"prefill_tokens": None}, 0),
        (PAYS | {"on_gpu": True}, 0),
        (PAYS | {"precision": "bf16-mixed"}, 0),
        (PAYS | {"precision": "bf16-true"}, 0),
        (PAYS | {"model": replace(SOURCE, compile=True)}, 0),
        (PAYS | {"layout": Layout(engine="fsdp2", stage=3)}, MATRICES),
        (PAYS | {"layout": Layout(engine="fsdp2", stage=3, gather_for_generation=False)}, 0),
    ],
)
def test_a_rollout_on_a_cpu_holds_arranged_weights(
    changes: dict[str, Any], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arranged, "SMALL", 1)
    # The matrices of GPT-2 lie transposed.
    monkeypatch.setattr(arranged, "TRANSPOSED_CALLS", 16)
    monkeypatch.setattr(phases, "_SIZES", {})
    planned = job(**changes)
    found = run_passes(planned)
    assert arranged_size(planned, found.sizes) == expected
    held = {moment.held["actor", "parameters"] for moment in moments(planned) if moment.phase == "rollout"}
    assert held == {held_later(planned) + expected}


def held_later(planned: Job) -> int:
    """Bytes of the weights of the actor that an update holds."""
    return next(moment.held["actor", "parameters"] for moment in moments(planned) if moment.phase == "update")


@pytest.mark.parametrize(
    ("prompt", "response", "max_rows", "prefill_tokens"),
    [(8, 6, 8, 4096), (8, 6, 8, 20), (8, 6, 3, 4096), (8, 200, 8, 4096), (9, 120, 5, 30)],
)
def test_the_native_engine_takes_the_columns_and_reads_the_prompts_that_are_planned(
    prompt: int, response: int, max_rows: int, prefill_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, read = set[int](), set[int]()

    class Seen(ColumnCache):
        def mask(self) -> torch.Tensor:
            taken.add(self.layers[0].keys.shape[2])  # type: ignore[union-attr]
            return super().mask()

    def noted(self: Waiting) -> Read:
        found = original(self)
        read.add(len(found.prompts))
        return found

    original = Waiting.read
    monkeypatch.setattr(rows, "ColumnCache", Seen)
    monkeypatch.setattr(Waiting, "read", noted)
    config = {**SOURCE.config, "n_positions": 256}  # type: ignore[dict-item]
    net = load_causal_lm(type(SOURCE)(config=config, tokenizer="none")).eval()
    requests = [Request([row + 1] * prompt, RandomKey(0, (SAMPLING,), row)) for row in range(8)]
    engine = NativeEngine(net, torch.device("cpu"), max_rows=max_rows, prefill_tokens=prefill_tokens)
    # Nothing stops a response, so all are as long as they may be.
    for _ in engine.iterate(requests, Sampling(max_new_tokens=response), stop_ids=()):
        pass
    planned = job(prompt_length=prompt, response_length=response, max_rows=max_rows, prefill_tokens=prefill_tokens)
    assert max(read) == planned.read_rows
    if max_rows < len(requests):
        assert max(taken) <= columns_taken(prompt, response, rows_join=True) < 1.25 * max(taken)
    else:
        assert max(taken) == columns_taken(prompt, response, rows_join=False)
