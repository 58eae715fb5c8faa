"""What a phase asks of a strategy that shards, with a strategy that only records the requests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from support import free_port
from torch import Tensor, nn

from lightning_rlhf.distributed.clipping import clip_by_role, grad_norms, last_grad_norms
from lightning_rlhf.distributed.phases import (
    finished_everywhere,
    full_state_dict,
    named_weights,
    num_parameters,
    release,
    rollout_phase,
    sharding,
    shards_parameters,
    whole,
)
from lightning_rlhf.rollout.engines.engine import Request
from lightning_rlhf.rollout.engines.padded import PaddedEngine
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey


class Noting(SingleDeviceStrategy):
    """A strategy that claims to shard, and records what it is asked for."""

    shards_parameters = True

    def __init__(self, *, gather_for_generation: bool = True) -> None:
        super().__init__("cpu")
        self.gather_for_generation = gather_for_generation
        self.notes: list[Any] = []

    @contextmanager
    def _note(self, *what: Any) -> Iterator[None]:
        self.notes.append(("enter", *what))
        yield
        self.notes.append(("leave", *what))

    def rollout(self) -> Any:
        return self._note("rollout")

    def whole(self, *nets: nn.Module, write: bool) -> Any:
        return self._note("whole", nets, write)

    def named_weights(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        for name in ("first", "second", "third"):
            self.notes.append(name)
            yield name, torch.ones(1)

    def num_parameters(self, net: nn.Module, *, trained: bool = False) -> int:
        return 7 if trained else 9

    def trained_weights(self) -> list[Tensor]:
        return [torch.ones(2)]

    def grad_norms(self) -> dict[str, Tensor] | None:
        return None

    def last_grad_norms(self) -> dict[str, Tensor] | None:
        return {"actor": torch.tensor(3.0)}

    def release(self) -> None:
        self.notes.append("released")

    def clip_by_role(self, max_norm: float) -> None:
        self.notes.append(("clip", max_norm))


def trainer_with(strategy: Any, folder: Path) -> Trainer:
    return Trainer(
        strategy=strategy, accelerator="cpu", logger=False, default_root_dir=folder, enable_checkpointing=False
    )


def test_a_rollout_gathers_the_net_that_samples_and_only_it(tmp_path: Path) -> None:
    strategy, actor, critic = Noting(), nn.Linear(2, 2), nn.Linear(2, 2)
    with rollout_phase(trainer_with(strategy, tmp_path), actor, critic, generator=actor):
        assert strategy.notes == [("enter", "rollout"), ("enter", "whole", (actor,), False)]
        assert not actor.training
        assert not torch.is_grad_enabled()
    assert strategy.notes[2:] == [("leave", "whole", (actor,), False), ("leave", "rollout")]
    assert actor.training


def test_a_rollout_gathers_nothing_where_memory_demands_it(tmp_path: Path) -> None:
    strategy, actor = Noting(gather_for_generation=False), nn.Linear(2, 2)
    with rollout_phase(trainer_with(strategy, tmp_path), actor, generator=actor):
        assert strategy.notes == [("enter", "rollout")]


def test_questions_go_to_the_strategy_that_shards(tmp_path: Path) -> None:
    strategy, net = Noting(), nn.Linear(2, 2)
    trainer, optimizer = trainer_with(strategy, tmp_path), torch.optim.SGD(net.parameters())
    assert sharding(trainer) is strategy
    assert shards_parameters(trainer)
    assert full_state_dict(trainer, net).keys() == {"first", "second", "third"}
    strategy.notes.clear()
    assert (num_parameters(trainer, net), num_parameters(trainer, net, trained=True)) == (9, 7)
    assert grad_norms(trainer, optimizer) is None
    assert last_grad_norms(trainer) == {"actor": 3}
    with whole(trainer, net, write=True):
        assert strategy.notes == [("enter", "whole", (net,), True)]
    clip_by_role(trainer, optimizer, 0.5)
    assert strategy.notes[-1] == ("clip", 0.5)
    release(trainer)
    assert strategy.notes[-1] == "released"


@pytest.mark.parametrize("asked_for", [0, 1, 3])
def test_a_stream_runs_to_its_end_since_other_processes_wait_for_it(asked_for: int, tmp_path: Path) -> None:
    strategy = Noting()
    with named_weights(trainer_with(strategy, tmp_path), nn.Linear(2, 2)) as weights:
        for _ in range(asked_for):
            next(weights)
        assert strategy.notes == ["first", "second", "third"][:asked_for]
    assert strategy.notes == ["first", "second", "third"]


def test_without_sharding_the_answers_are_those_of_the_net(tmp_path: Path) -> None:
    net = nn.Linear(2, 3)
    net.bias.requires_grad_(False)
    trainer, optimizer = trainer_with("auto", tmp_path), torch.optim.SGD([net.weight])
    assert sharding(trainer) is None
    assert not shards_parameters(trainer)
    assert full_state_dict(trainer, net).keys() == {"weight", "bias"}
    assert [(name, weight.shape) for name, weight in named_weights(trainer, net)] == [
        ("weight", (3, 2)),
        ("bias", (3,)),
    ]
    assert (num_parameters(trainer, net), num_parameters(trainer, net, trained=True)) == (9, 6)
    assert grad_norms(trainer, optimizer) == {}
    net.weight.grad = torch.full((3, 2), 2.0)
    assert grad_norms(trainer, optimizer) == {"model": pytest.approx(24**0.5)}
    assert last_grad_norms(trainer) is None


class Counting(nn.Module):
    """A model that outputs its stop token at a given step, and counts its forward passes."""

    def __init__(self, stops_after: int) -> None:
        super().__init__()
        self.stops_after, self.calls = stops_after, 0

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past_key_values: Any = None, use_cache: bool = True
    ) -> Any:
        self.calls += 1
        logits = torch.full((*input_ids.shape, 4), -30.0)
        logits[..., 1 if self.calls >= self.stops_after else 2] = 30.0
        return type("Output", (), {"logits": logits, "past_key_values": None})


def _sample_in_a_process(rank: int, port: int, gather: bool, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    net = Counting(stops_after=2 + 3 * rank)
    trainer = trainer_with(Noting(gather_for_generation=gather), Path(folder))
    requests = [Request([0, 0, 0], RandomKey(0, (SAMPLING,), row)) for row in range(2)]
    with rollout_phase(trainer, net, generator=net):
        engine = PaddedEngine(net, torch.device("cpu"))
        completions = engine.generate(requests, Sampling(max_new_tokens=9), stop_ids=(1,))
    lengths = [len(completion.ids) for completion in completions]
    Path(folder, f"{gather}_{rank}").write_text(f"{net.calls} {lengths}")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("gather", "calls"), [(True, [2, 5]), (False, [5, 5])])
def test_ranks_end_sampling_together_where_each_token_gathers(gather: bool, calls: list[int], tmp_path: Path) -> None:
    """Responses of 2 tokens on one rank and 5 on the other, which are the same with and without gathering."""
    mp.spawn(_sample_in_a_process, (free_port(), gather, str(tmp_path)), nprocs=2)
    found = [(tmp_path / f"{gather}_{rank}").read_text() for rank in range(2)]
    assert found == [f"{calls[0]} [2, 2]", f"{calls[1]} [5, 5]"]


def test_one_process_stops_when_it_is_through() -> None:
    assert finished_everywhere(True)
    assert not finished_everywhere(False)
