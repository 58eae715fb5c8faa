"""The last minibatch of an epoch, which is smaller: however it is shared, its gradient is that of its rows alone."""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_rlhf.data.budget import Load, parts_within
from lightning_rlhf.data.kinds import Conversation
from lightning_rlhf.data.loader import MinibatchLoader
from lightning_rlhf.data.pairs import Pair, Scored
from lightning_rlhf.data.preference import PreferenceDataModule
from lightning_rlhf.data.sft import collate_counted, num_labels
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.modules.dpo import DPOModule
from lightning_rlhf.modules.reward import RewardModule
from lightning_rlhf.modules.sft import SFTModule

SIZE = 12
RENDERER: Any = None
Made = tuple[Any, nn.Module, list[Any], Callable[..., Any], np.ndarray]


def conversation(seed: int) -> Conversation:
    """A conversation of its own length."""
    prompt, answer = 1 + seed % 3, 2 + seed % 4
    ids = np.random.default_rng(seed).integers(3, 60, prompt + answer)
    return Conversation(ids, np.arange(prompt + answer) >= prompt)


def collated(objective: str) -> Callable[..., Any]:
    data = PreferenceDataModule([], RENDERER, objective=objective)  # type: ignore[arg-type]
    return data._collate


@pytest.fixture(params=["sft", "reward", "regression", "dpo"])
def made(
    request: pytest.FixtureRequest,
    make_source: Callable[..., ModelSource],
    make_causal_lm: Callable[..., PreTrainedModel],
    make_scalar_model: Callable[..., ScalarModel],
) -> Made:
    """A module, the net that it trains, fifteen rows, how they are batched, and how much each counts."""
    source = make_source()
    module: Any
    pairs = [Pair(conversation(2 * n), conversation(2 * n + 1), 0.5) for n in range(15)]
    if request.param == "sft":
        module = SFTModule(make_causal_lm(source), RENDERER)
        rows = [conversation(n) for n in range(15)]
        return module, module.builders["net"], rows, collate_counted, np.array([num_labels(row) for row in rows])
    if request.param == "dpo":
        reference = make_causal_lm(source, seed=1)
        module = DPOModule(actor=make_causal_lm(source), reference=reference, renderer=RENDERER)
        return module, module.builders["actor"], pairs, collated("pairwise"), np.ones(15, dtype=int)
    objective: Any = "regression" if request.param == "regression" else "pairwise"
    module = RewardModule(copy.deepcopy(make_scalar_model(source)), RENDERER, objective=objective)
    scored: list[Any] = [Scored(pair.chosen, float(n)) for n, pair in enumerate(pairs)]
    return (
        module,
        module.builders["net"],
        scored if objective == "regression" else pairs,
        collated(objective),
        np.ones(15),
    )


def trained(module: Any, net: nn.Module, batches: list[Any], trainer: Any) -> tuple[Tensor, dict[str, float]]:
    """The gradient of the losses of some micro-batches, averaged as Lightning does over parts and ranks; the metrics.

    The metrics are the sums of the shares, which `StageModule` reduces over ranks.
    """
    module._trainer = trainer
    module.configure_model()
    module.eval()
    module.shares = {}
    net.zero_grad(set_to_none=True)
    for batch in batches:
        loss = module.training_step(batch, 0) / (trainer.world_size * trainer.accumulate_grad_batches)
        loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    return gradient, {name: float(share) for name, share in module.shares.items()}


# Three rows are left. With four shares or more, some consist of rows that do not count.
@pytest.mark.parametrize("shares", [(1, 2), (2, 1), (2, 2), (1, 4), (3, 2), (2, 6)])
def test_however_it_is_shared_it_has_the_gradient_and_metrics_of_its_rows_alone(
    made: Made, shares: tuple[int, int]
) -> None:
    module, net, rows, collate, sizes = made
    world_size, parts = shares
    last, order = [], []
    for rank in range(world_size):
        trainer: Any = SimpleNamespace(world_size=world_size, global_rank=rank, accumulate_grad_batches=parts)
        loader = MinibatchLoader(rows, collate, sizes, minibatch_size=SIZE, trainer=trainer, seed=3)
        last += list(loader)[parts:]
        whole: Any = SimpleNamespace(world_size=1, global_rank=0, accumulate_grad_batches=1)
        alone = MinibatchLoader(range(15), lambda some, _, __: some, sizes, minibatch_size=SIZE, trainer=whole, seed=3)
        order = list(alone)[1]
    assert len(order) == 3
    assert len(last) == world_size * parts
    shared, shared_metrics = trained(module, net, last, trainer)
    # Each of the three rows by itself, divided by the size of all three.
    each = [collate([rows[place]], [True], int(sizes[order].sum())) for place in order]
    single, metrics = trained(module, net, each, SimpleNamespace(world_size=1, accumulate_grad_batches=1))
    assert float(single.norm()) > 0
    assert float((shared - single).norm()) < 1e-4 * float(single.norm())
    assert metrics.keys() >= {"loss"}
    assert shared_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_token_budget_changes_no_gradient_and_no_metric(made: Made, world_size: int) -> None:
    module, net, rows, collate, sizes = made
    lengths = np.array([collate([row], [True], 1).attention_mask.numel() for row in rows])
    # Two of the longest rows, or more of the shorter ones.
    budget = 2 * int(lengths.max())
    parts = parts_within(budget, [Load(SIZE, lengths)], world_size)
    assert parts > 1
    # Minibatches of twelve and of three rows.
    for number in range(2):
        shared, trainer = [], None
        for rank in range(world_size):
            trainer = SimpleNamespace(world_size=world_size, global_rank=rank, accumulate_grad_batches=parts)
            loader: Any = MinibatchLoader(
                rows, collate, sizes, minibatch_size=SIZE, lengths=lengths, max_tokens=budget, trainer=trainer, seed=3
            )
            shared += list(loader)[number * parts : (number + 1) * parts]
        assert max(batch.attention_mask.numel() for batch in shared) <= budget
        assert trainer is not None
        alone = SimpleNamespace(world_size=1, global_rank=0, accumulate_grad_batches=1)
        whole = list(MinibatchLoader(rows, collate, sizes, minibatch_size=SIZE, trainer=alone, seed=3))[number]
        expected, metrics = trained(module, net, [whole], alone)
        gradient, shared_metrics = trained(module, net, shared, trainer)
        assert float(expected.norm()) > 0
        assert float((gradient - expected).norm()) < 1e-4 * float(expected.norm())
        assert shared_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-6)
