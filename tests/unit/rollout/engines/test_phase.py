"""When the engine of a module is built, gets weights, and sleeps."""

import copy
import weakref
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from support import trainer
from torch import nn

from lightning_rlhf.rollout.engines import phase
from lightning_rlhf.rollout.engines.engine import RolloutEngine
from lightning_rlhf.rollout.engines.phase import EngineHandle


class Noting:
    """An engine that records its calls, and reads the weights that it is given if it is told to."""

    def __init__(self, notes: list[Any], net: nn.Module, device: torch.device, *, shares_weights: bool = False) -> None:
        self.notes, self.shares_weights, self.weights_version = notes, shares_weights, None
        notes.append(("build", net, device.type))

    def update_weights(self, weights: Any, version: Any) -> None:
        names = [] if self.shares_weights else [name for name, _ in weights]
        self.notes.append(("update", names, version))
        self.weights_version = version

    def resume(self) -> None:
        self.notes.append("resume")

    def release(self) -> None:
        self.notes.append("release")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Finds the number of steps that trainers have made."""
    made = [0]
    monkeypatch.setattr(pl.Trainer, "global_step", property(lambda self: made[0]))
    return made


def noted(notes: list[Any], handle: EngineHandle, fitted: pl.Trainer, net: nn.Module) -> list[Any]:
    """Records what a phase does to the engine."""
    notes.clear()
    with handle.phase(fitted, net, generator=net) as engine:
        assert isinstance(engine, Noting)
        assert not net.training
        notes.append("sample")
    assert net.training
    return list(notes)


def make_handle(notes: list[Any], **settings: Any) -> EngineHandle:
    def build(net: nn.Module, device: torch.device) -> RolloutEngine:
        engine: Any = Noting(notes, net, device, **settings)
        return engine

    return EngineHandle(build)


def test_an_engine_is_built_once_and_gets_weights_when_a_step_has_changed_them(
    steps: list[int], tmp_path: Path
) -> None:
    notes: list[Any] = []
    handle, fitted, net = make_handle(notes), trainer(tmp_path), nn.Linear(2, 2)
    update = ("update", ["weight", "bias"], 0)
    assert noted(notes, handle, fitted, net) == [("build", net, "cpu"), "resume", update, "sample", "release"]
    assert noted(notes, handle, fitted, net) == ["resume", "sample", "release"]
    steps[0] = 4
    assert noted(notes, handle, fitted, net) == ["resume", ("update", ["weight", "bias"], 4), "sample", "release"]


def test_another_trainer_counts_anew_and_so_gets_another_engine(steps: list[int], tmp_path: Path) -> None:
    notes: list[Any] = []
    handle, net = make_handle(notes), nn.Linear(2, 2)
    noted(notes, handle, trainer(tmp_path), net)
    assert noted(notes, handle, trainer(tmp_path), net)[0] == ("build", net, "cpu")
    other = nn.Linear(2, 2)
    assert noted(notes, handle, trainer(tmp_path), other)[0] == ("build", other, "cpu")


def test_the_old_engine_is_gone_before_the_new_one_is_built(steps: list[int], tmp_path: Path) -> None:
    built: list[weakref.ref[Noting]] = []

    def build(net: nn.Module, device: torch.device) -> RolloutEngine:
        assert all(earlier() is None for earlier in built)
        engine: Any = Noting([], net, device)
        built.append(weakref.ref(engine))
        return engine

    handle, net = EngineHandle(build), nn.Linear(2, 2)
    for _ in range(2):
        with handle.phase(trainer(tmp_path), net, generator=net):
            assert built[-1]() is not None
    assert len(built) == 2


def test_a_copy_of_a_module_builds_an_engine_of_its_own(steps: list[int], tmp_path: Path) -> None:
    notes: list[Any] = []
    handle, fitted, net = make_handle(notes), trainer(tmp_path), nn.Linear(2, 2)
    noted(notes, handle, fitted, net)
    assert noted(notes, copy.deepcopy(handle), fitted, net)[0] == ("build", net, "cpu")
    assert noted(notes, handle, fitted, net)[0] == "resume"


def test_an_engine_sleeps_again_after_an_error(steps: list[int], tmp_path: Path) -> None:
    notes: list[Any] = []
    net = nn.Linear(2, 2)
    with (
        pytest.raises(RuntimeError, match="lost"),
        make_handle(notes).phase(trainer(tmp_path), net, generator=net),
    ):
        raise RuntimeError("lost")
    assert notes[-1] == "release"


@pytest.mark.parametrize("shares_weights", [True, False])
def test_the_net_is_gathered_for_an_engine_that_samples_with_it(
    shares_weights: bool, steps: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered = []

    def noting(*_: Any, generator: nn.Module | None) -> AbstractContextManager[None]:
        gathered.append(generator)
        return nullcontext()

    monkeypatch.setattr(phase, "rollout_phase", noting)
    net = nn.Linear(2, 2)
    with make_handle([], shares_weights=shares_weights).phase(trainer(tmp_path), net, generator=net):
        pass
    assert gathered == [net if shares_weights else None]
