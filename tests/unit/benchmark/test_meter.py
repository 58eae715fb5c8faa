"""The meter of tensors: where it works, and that it ends."""

import ctypes
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

from lightning_rlhf.benchmark import meter
from lightning_rlhf.benchmark.memory import PeakMemory

TRAINER: Any = SimpleNamespace(current_epoch=1)
MODULE: Any = SimpleNamespace(device=torch.device("cpu"))


@pytest.fixture(autouse=True)
def library_asked_anew() -> Iterator[None]:
    meter._mallinfo2.cache_clear()
    yield
    meter._mallinfo2.cache_clear()


def no_library(name: str) -> object:
    raise OSError(f"{name}: cannot open shared object file")


def test_the_peak_is_that_of_the_tensors_of_one_iteration() -> None:
    memory = PeakMemory(1)
    memory.on_train_epoch_start(TRAINER, MODULE)
    before = torch.zeros(1)
    large = torch.zeros(10 * 2**20)
    del large
    memory.on_train_epoch_end(TRAINER, MODULE)
    assert memory.peaks["score"] > 40 * 2**20 + before.nbytes
    assert _get_current_dispatch_mode() is None


def test_a_phase_has_the_peak_of_its_own_tensors_and_of_those_that_it_finds() -> None:
    memory = PeakMemory(1)
    memory.on_train_epoch_start(TRAINER, MODULE)
    memory.enter("rollout")
    kept = torch.zeros(10 * 2**20)
    memory.enter("score")
    large = torch.zeros(20 * 2**20)
    del large
    memory.enter("rollout")
    memory.enter("update")
    del kept
    memory.on_train_epoch_end(TRAINER, MODULE)
    # 40 MiB stay from the rollout to the update, and scoring adds 80 MiB of its own.
    (before,) = {
        round(memory.peaks[name] / 2**20 - mib) for name, mib in (("rollout", 40), ("score", 120), ("update", 40))
    }
    assert before >= 0
    memory.enter("rollout")
    assert set(memory.peaks) == {"rollout", "score", "update"}


@pytest.mark.parametrize("library", [no_library, lambda name: SimpleNamespace()])
def test_without_a_c_library_that_tells_there_is_no_peak(library: object, monkeypatch: pytest.MonkeyPatch) -> None:
    # macOS and musl have no such library, and an older glibc has it without the function.
    monkeypatch.setattr(ctypes, "CDLL", library)
    memory = PeakMemory(1)
    memory.on_train_epoch_start(TRAINER, MODULE)
    assert _get_current_dispatch_mode() is None
    memory.on_train_epoch_end(TRAINER, MODULE)
    assert memory.peaks == {}


def test_an_error_ends_the_meter() -> None:
    memory = PeakMemory(1)
    memory.on_train_epoch_start(TRAINER, MODULE)
    assert _get_current_dispatch_mode() is memory.meter
    memory.on_exception(TRAINER, MODULE, RuntimeError("out of memory"))
    assert _get_current_dispatch_mode() is None
