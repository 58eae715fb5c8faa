"""Measures the memory of one PPO run: python benchmarks/plan_run.py FOLDER [override …]; see plan_accuracy.py.

The measured value is what the allocator of the C library has given out after each operator, whichever thread asks for
memory or frees it. The tensors are counted once, when the first rollout begins; the rest belongs to Python and
libraries, and is subtracted. The script also computes the plan of the same configuration, and writes both for the first
process to FOLDER/memory.json.
"""

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
# MKL would keep the buffers of its products, on processors by Intel. They are no tensors.
os.environ["MKL_DISABLE_FAST_MM"] = "1"

from hydra import compose, initialize_config_module
from lightning.pytorch import Trainer
from omegaconf import DictConfig, open_dict

from lightning_rlhf.assembly.library_messages import silence_libraries
from lightning_rlhf.assembly.plan_job import job_of
from lightning_rlhf.assembly.renderer import load_renderer
from lightning_rlhf.assembly.stage import prepare
from lightning_rlhf.benchmark.meter import Meter, allocated, tensor_bytes
from lightning_rlhf.hooks import RLHFCallback
from lightning_rlhf.planner.memory import by_kind, peak
from lightning_rlhf.planner.phases import moments

SETTINGS = [
    "stage=ppo",
    "experiment=none",
    "data=files",
    "data.template=raw",
    "trainer=cpu",
    "logger=none",
    "~callbacks.checkpoint",
    "~callbacks.export",
    "~callbacks.samples",
    "~callbacks.progress",
    "~callbacks.run_card",
    "~callbacks.nets",
    "~callbacks.start_checks",
    "data.max_prompt_length=64",
    "rollout.sampling.max_new_tokens=6",
    "ppo.module.rollout_batch_size=32",
    "rollout.micro_batch_size=16",
    "ppo.module.minibatch_size=16",
    "ppo.module.ppo_epochs=1",
    "ppo.trainer.max_epochs=2",
    "ppo.trainer.check_val_every_n_epoch=2",
    "ppo.trainer.num_sanity_val_steps=0",
    "+ppo.trainer.limit_val_batches=0",
]


class Measure(RLHFCallback):
    """Keeps the peak of each phase, without the bytes that are not tensors."""

    def __init__(self, meter: Meter) -> None:
        """Takes the meter."""
        self.meter = meter
        self.other: int | None = None
        self.peaks = {"rollout": 0, "update": 0}

    def on_rollout_start(self, trainer: Trainer, module: Any) -> None:
        """Counts the bytes that are not tensors, once."""
        gc.collect()
        if self.other is None:
            self.other = allocated() - tensor_bytes()
        self.meter.most = 0

    def on_rollout_end(self, trainer: Trainer, module: Any, rollout: Any) -> None:
        """Notes the peak of a rollout."""
        self._note("rollout")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Notes the peak of an update."""
        self._note("update")

    def _note(self, phase: str) -> None:
        self.peaks[phase] = max(self.peaks[phase], self.meter.most - (self.other or 0))
        self.meter.most = 0


def configured(folder: Path, overrides: list[str]) -> DictConfig:
    """The configuration of a run in a folder that contains prompts."""
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("train", [*SETTINGS, f"data.path={folder / 'prompts.jsonl'}", *overrides])
    with open_dict(config):
        config.run_dir = str(folder)
    return config


def trained(folder: Path, config: DictConfig) -> tuple[Trainer, dict[str, int]]:
    """Trains, and returns the trainer and the largest number of bytes of each phase."""
    stage = prepare(config, "ppo", folder, load_renderer(config))
    meter = Meter()
    measure = Measure(meter)
    stage.trainer.callbacks.append(measure)  # type: ignore[attr-defined]
    stage.data.setup("fit")
    with meter:
        stage.trainer.fit(stage.module, stage.data)
    return stage.trainer, measure.peaks


def run(folder: Path, overrides: list[str]) -> None:
    """Trains, and writes how much memory the run took and how much was planned."""
    silence_libraries()
    config = configured(folder, overrides)
    # Lightning starts the other processes with this variable.
    planned = [] if int(os.environ.get("LOCAL_RANK", 0)) else moments(job_of(config, "ppo"))
    trainer, peaks = trained(folder, config)
    if trainer.is_global_zero:
        phases = {"rollout": ("rollout", "scoring"), "update": ("update",)}
        expected = {name: peak([m for m in planned if m.phase in those]) for name, those in phases.items()}
        record = {
            "measured": peaks,
            "planned": {name: moment.total for name, moment in expected.items()},
            "at": {name: moment.what for name, moment in expected.items()},
            "kinds": {name: by_kind(moment.held) for name, moment in expected.items()},
        }
        (folder / "memory.json").write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2:])
