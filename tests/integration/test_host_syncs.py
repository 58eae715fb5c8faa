"""Where a training step reads from a tensor, because on a GPU each such read waits until the GPU has caught up."""

import os
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from support import environ, trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_rlhf.callbacks import Health, StepMetrics
from lightning_rlhf.models import packing

aten = torch.ops.aten
READS = {aten._local_scalar_dense, aten.equal, aten.nonzero, aten.masked_select, aten.masked_scatter_backward}
"""Operators that give Python a number, or whose result has a shape that depends on numbers."""
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
"""Operators that read the places of the True elements if an index is a mask."""


def place() -> str:
    """Returns the innermost file of this package, or the library that it called, in which something is read."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        library, _, module = frame.f_globals.get("__name__", "").partition(".")
        if library == "lightning_rlhf":
            return f"{module.replace('.', '/')}.py"
        if library == "transformers" or module.startswith("autograd"):
            return library
        frame = frame.f_back
    return "elsewhere"


class Reads(TorchDispatchMode):
    """Counts the reads of a block of code by the file that reads."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operator = function.overloadpacket
        masked = operator in INDEXED and any(index is not None and index.dtype == torch.bool for index in args[1])
        if operator in READS or masked:
            self.counts[place()] += 1
        return function(*args, **(kwargs or {}))


class CountReads(pl.Callback):
    """Counts the reads of each step: forward, backward, clipping, the update, and the callbacks before this one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: list[dict[str, int]] = []
        self.reads: Reads | None = None
        # These two read the memory of a CPU's tensor without an operator.
        for name in ("tolist", "numpy"):
            monkeypatch.setattr(Tensor, name, self._counted(getattr(Tensor, name)))

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(tensor: Tensor, *args: Any, **settings: Any) -> Any:
            if self.reads is not None:
                self.reads.counts[place()] += 1
            return method(tensor, *args, **settings)

        return counted

    def on_train_batch_start(self, *_: Any) -> None:
        self.reads = Reads()
        self.reads.__enter__()

    def on_train_batch_end(self, *_: Any) -> None:
        assert self.reads is not None
        self.reads.__exit__(None, None, None)
        self.counts.append(dict(self.reads.counts))
        self.reads = None


SETTINGS = {"gradient_clip_val": 1.0, "log_every_n_steps": 1000, "limit_val_batches": 0, "num_sanity_val_steps": 0}
LANGUAGE, SCALAR = {"sft": 1, "reward": 0, "dpo": 2, "ppo": 1}, {"sft": 0, "reward": 1, "dpo": 0, "ppo": 1}
"""How often a step calls language models, and models with a scalar head."""


def documented(stage: str, packs: bool) -> dict[str, int]:
    """The reads of a step, as docs/performance.md lists them ("Waiting for a GPU")."""
    calls = LANGUAGE[stage] + SCALAR[stage]
    counts = {
        "models/packing.py": calls,
        "transformers": 0 if packs else 2 * calls,
        "models/forward.py": 2 * LANGUAGE[stage],
        # The log-probs of responses lie in rows, from which the backward pass takes their gradients.
        "torch": stage in ("dpo", "ppo"),
        "ops/sequences.py": 3 * (stage == "dpo"),
        "callbacks/health.py": 1,
    }
    return {name: int(count) for name, count in counts.items() if count}


@pytest.mark.parametrize("packs", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("stage", LANGUAGE)
def test_a_training_step_waits_for_what_the_documentation_lists(
    stage: str,
    packs: bool,
    parts: Callable[..., tuple[pl.LightningModule, pl.LightningDataModule]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packing, "_WORTH", 2.0 if packs else 0.0)
    # A GPU gets no segments, because it would wait to tell their sizes.
    monkeypatch.setattr(packing, "_takes_segments", lambda *_: False)
    module, data = parts(stage)
    counted = CountReads(monkeypatch)
    callbacks = [StepMetrics(), Health(), counted]
    trainer(tmp_path, *callbacks, max_epochs=4, max_steps=16, **SETTINGS).fit(module, data)
    expected = [documented(stage, packs) for _ in range(16)]
    if stage == "ppo":
        for first in expected[::4]:
            first["callbacks/health.py"] += 1
    # Weights are compared before and after the 16th step: one number for each tensor, and two for the sum.
    expected[15]["distributed/weight_movement.py"] = 2 + sum(weight.requires_grad for weight in module.parameters())
    assert counted.counts == expected


class Warned(pl.Callback):
    """Keeps the files in which a step waits for a GPU, as CUDA reports them."""

    def __init__(self) -> None:
        self.places: set[str] = set()

    def on_train_batch_start(self, *_: Any) -> None:
        self.warnings = warnings.catch_warnings()
        self.warnings.__enter__()
        warnings.simplefilter("always")
        warnings.showwarning = lambda *_, **__: self.places.add(place())
        torch.cuda.set_sync_debug_mode("warn")

    def on_train_batch_end(self, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")
        self.warnings.__exit__(None, None, None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("stage", LANGUAGE)
def test_a_gpu_is_waited_for_nowhere_else(
    stage: str, parts: Callable[..., tuple[pl.LightningModule, pl.LightningDataModule]], tmp_path: Path
) -> None:
    module, data = parts(stage)
    warned = Warned()
    callbacks = [StepMetrics(), Health(), warned]
    trainer(tmp_path, *callbacks, accelerator="cuda", max_epochs=1, limit_train_batches=3, **SETTINGS).fit(module, data)
    assert warned.places
    assert warned.places <= documented(stage, packs=True).keys()


THREADS = """
import lightning.pytorch as pl, sys, torch
from pathlib import Path

class Threads(pl.LightningModule):
    def on_fit_start(self):
        (Path(sys.argv[1]) / str(self.global_rank)).write_text(str(torch.get_num_threads()))

    def train_dataloader(self):
        return torch.utils.data.DataLoader([])

    def training_step(self, batch):
        raise AssertionError

    def configure_model(self):
        self.net = torch.nn.Linear(1, 1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 1}
pl.Trainer(accelerator="cpu", strategy="ddp", devices=2, **settings).fit(Threads())
"""


@pytest.mark.slow
@pytest.mark.parametrize("given", [None, "2"])
def test_processes_share_the_cores_unless_the_user_sets_a_number(given: str | None, tmp_path: Path) -> None:
    (tmp_path / "threads.py").write_text(THREADS)
    (tmp_path / "out").mkdir()
    environment = environ()
    del environment["OMP_NUM_THREADS"]
    environment |= {"OMP_NUM_THREADS": given} if given else {}
    command = [sys.executable, str(tmp_path / "threads.py"), str(tmp_path / "out")]
    subprocess.run(command, check=True, env=environment, timeout=300, capture_output=True)
    found = [int((tmp_path / "out" / rank).read_text()) for rank in "01"]
    assert found == [int(given) if given else max(1, len(os.sched_getaffinity(0)) // 2)] * 2
