"""One PPO run whose memory is measured: python benchmarks/plan_run.py FOLDER [override …]; see plan_accuracy.py.

What is measured is what the allocator of the C library has given out, after each operator, whichever thread asks for it
or frees it; what Python and libraries have is taken off by counting tensors once, when the first rollout begins. The
plan of the same configuration is computed beside. FOLDER/memory.json gets both, of the first process.
"""

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

from hydra import compose, initialize_config_module
from lightning.pytorch import Trainer
from meter import Meter, allocated, tensor_bytes
from omegaconf import DictConfig, open_dict

from lightning_rlhf.assembly.library_messages import silence_libraries
from lightning_rlhf.assembly.plan_job import job_of
from lightning_rlhf.assembly.renderer import load_renderer
from lightning_rlhf.assembly.stage import prepare
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
    "ppo.module.rollout_micro_batch_size=16",
    "ppo.module.minibatch_size=16",
    "ppo.module.ppo_epochs=1",
    "ppo.trainer.max_epochs=2",
    "ppo.trainer.check_val_every_n_epoch=2",
    "ppo.trainer.num_sanity_val_steps=0",
    "+ppo.trainer.limit_val_batches=0",
]


class Measure(RLHFCallback):
    """The most in each phase, without what is no tensor."""

    def __init__(self, meter: Meter) -> None:
        """Takes what measures."""
        self.meter = meter
        self.other: int | None = None
        self.peaks = {"rollout": 0, "update": 0}

    def on_rollout_start(self, trainer: Trainer, module: Any) -> None:
        """Counts what is no tensor, once."""
        gc.collect()
        if self.other is None:
            self.other = allocated() - tensor_bytes()
        self.meter.most = 0

    def on_rollout_end(self, trainer: Trainer, module: Any, rollout: Any) -> None:
        """Notes a rollout's."""
        self._note("rollout")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Notes an update's."""
        self._note("update")

    def _note(self, phase: str) -> None:
        self.peaks[phase] = max(self.peaks[phase], self.meter.most - (self.other or 0))
        self.meter.most = 0


def configured(folder: Path, overrides: list[str]) -> DictConfig:
    """The configuration of a run in a folder with prompts."""
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("train", [*SETTINGS, f"data.path={folder / 'prompts.jsonl'}", *overrides])
    with open_dict(config):
        config.run_dir = str(folder)
    return config


def trained(folder: Path, config: DictConfig) -> tuple[Trainer, dict[str, int]]:
    """Trains; the trainer, and the most bytes of each phase."""
    stage = prepare(config, "ppo", folder, load_renderer(config))
    meter = Meter()
    measure = Measure(meter)
    stage.trainer.callbacks.append(measure)  # type: ignore[attr-defined]
    stage.data.setup("fit")
    with meter:
        stage.trainer.fit(stage.module, stage.data)
    return stage.trainer, measure.peaks


def run(folder: Path, overrides: list[str]) -> None:
    """Trains, and writes what it took and what was planned."""
    silence_libraries()
    config = configured(folder, overrides)
    planned = moments(job_of(config, "ppo"))
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
