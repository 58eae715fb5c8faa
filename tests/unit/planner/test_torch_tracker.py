"""The planner's numbers, compared with torch's memory tracker and with FSDP2 on simulated processes."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tiny_jobs import SOURCE, job, kinds
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from lightning_rlhf.distributed.blocks import blocks
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.forward import label_logprobs
from lightning_rlhf.models.packing import without_packing
from lightning_rlhf.planner.layout import Layout
from lightning_rlhf.planner.passes import sequences
from lightning_rlhf.planner.phases import moments
from lightning_rlhf.planner.plan import Plan

# This model is wider than the others, so that activations and logits matter.
WIDE = replace(SOURCE, config={**SOURCE.config, "n_embd": 64, "vocab_size": 500})  # type: ignore[dict-item]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_update_takes_what_torchs_tracker_counts(checkpointing: bool) -> None:
    source = replace(WIDE, gradient_checkpointing=checkpointing)
    planned = Plan(job(stage="sft", model=source, minibatch_size=8))
    passes = [m for m in moments(planned.job) if m.phase == "update" and m.what != "optimizer step"]
    net = load_causal_lm(source).train()
    optimizer = torch.optim.AdamW(net.parameters(), foreach=False)
    texts = sequences(8, 0, 14)
    # The update runs twice, since the optimizer's averages exist only in the second one.
    for _ in range(2):
        tracker = MemTracker()
        tracker.track_external(net, optimizer)
        # Equal rows would be computed once.
        with tracker, without_packing():
            label_logprobs(net, texts.input_ids, texts.attention_mask, texts.response_mask).sum().backward()
        peak = sum(found["Total"] for found in tracker.get_tracker_snapshot("peak").values())
        optimizer.step()
        optimizer.zero_grad()
    assert max(m.total for m in passes) == pytest.approx(peak, rel=0.01)


@pytest.fixture(params=[2, 8])
def processes(request: pytest.FixtureRequest) -> Iterator[int]:
    """Simulates so many processes, of which this is the first."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=request.param)
    yield request.param
    dist.destroy_process_group()


def _local(tensors: Any) -> int:
    return sum((t.to_local() if isinstance(t, DTensor) else t).nbytes for t in tensors)


def test_fsdp2_divides_weights_gradients_and_averages_as_planned(processes: int) -> None:
    sizes = {"processes": processes, "minibatch_size": 8, "layout": Layout(engine="fsdp2", stage=3)}
    planned = Plan(job(stage="sft", model=WIDE, **sizes))
    net = load_causal_lm(WIDE)
    for block in blocks(net):
        fully_shard(block)
    fully_shard(net)
    optimizer = torch.optim.AdamW(net.parameters(), foreach=False)
    texts = sequences(8 // processes, 0, 14)
    label_logprobs(net, texts.input_ids, texts.attention_mask, texts.response_mask).sum().backward()
    optimizer.step()
    averages = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    found = kinds(planned, "export")
    # If the rows do not divide by the processes, the first process has the filled-up share.
    assert _local(net.parameters()) == pytest.approx(found["parameters"], rel=0.01)
    assert _local(weight.grad for weight in net.parameters()) == pytest.approx(found["gradients"], rel=0.01)
    assert _local(averages) == pytest.approx(found["optimizer"], rel=0.01)
