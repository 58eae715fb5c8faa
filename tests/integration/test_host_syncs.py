"""A training step reads no number of a tensor, because on a GPU each such read waits until the GPU has caught up."""

import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from support import environ, trainer
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_rlhf.callbacks import StepMetrics


class Reads(TorchDispatchMode):
    """Counts the operators that give Python a number of a tensor.

    Those of transformers do not count: it reads from the mask whether there is padding, to choose a kernel.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            self.count += not any("/transformers/" in frame.filename for frame in traceback.extract_stack())
        return function(*args, **(kwargs or {}))


class CountReads(pl.Callback):
    """Counts the reads of each step: forward, backward, clipping, and the update."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.reads = Reads()
        self.reads.__enter__()

    def on_train_batch_end(self, *_: Any) -> None:
        self.reads.__exit__(None, None, None)
        self.counts.append(self.reads.count)


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_a_training_step_reads_no_number_of_a_tensor(
    stage: str, parts: Callable[..., tuple[pl.LightningModule, pl.LightningDataModule]], tmp_path: Path
) -> None:
    module, data = parts(stage)
    counted = CountReads()
    settings = {"gradient_clip_val": 1.0, "log_every_n_steps": 1000, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    trainer(tmp_path, StepMetrics(), counted, max_epochs=1, limit_train_batches=3, **settings).fit(module, data)
    assert counted.counts == [0, 0, 0]


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
