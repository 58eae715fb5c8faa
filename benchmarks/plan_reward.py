"""Compares the plan for normalising a reward model with what normalising really takes on a CPU.

    python benchmarks/plan_reward.py FOLDER [override …]

The script writes models and prompts into FOLDER, as `plan_accuracy.py` does. Overrides such as `strategy=fsdp2
trainer.devices=2` start several processes, of which the first is measured. The measured value is the peak while the
samples are drawn and scored, as in `plan_run.py`.
"""

import gc
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
# MKL would keep the buffers of its products, on processors by Intel. They are no tensors.
os.environ["MKL_DISABLE_FAST_MM"] = "1"

from hydra import compose, initialize_config_module
from lightning.pytorch import Callback
from omegaconf import open_dict
from plan_accuracy import PROMPT_LENGTH, write_nets
from plan_run import SETTINGS
from transformers import PreTrainedModel

from lightning_rlhf.assembly.library_messages import silence_libraries
from lightning_rlhf.assembly.plan_job import job_of
from lightning_rlhf.assembly.renderer import load_renderer
from lightning_rlhf.assembly.stage import prepare
from lightning_rlhf.benchmark.meter import Meter, allocated, tensor_bytes
from lightning_rlhf.callbacks import NormalizeReward
from lightning_rlhf.distributed.phases import shards_parameters
from lightning_rlhf.planner.memory import by_kind, peak
from lightning_rlhf.planner.phases import moments

OF_STAGE = [
    "stage=reward",
    f"data.max_length={PROMPT_LENGTH + 6}",
    "reward_model.data.minibatch_size=16",
    "reward_model.data.val_fraction=0.1",
    "reward_model.callbacks.normalize.num_samples=32",
    "reward_model.callbacks.normalize.batch_size=16",
    "+reward_model.trainer.limit_train_batches=1",
    "+reward_model.trainer.limit_val_batches=0",
    f"+prompt_length={PROMPT_LENGTH}",
    "+response_length=6",
]


class Measure(Callback):
    """Counts the bytes that are not tensors before the reward model is normalised."""

    def __init__(self, meter: Meter) -> None:
        """Takes the meter."""
        self.meter, self.other = meter, 0

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Counts the bytes that are not tensors, and starts to measure."""
        if not shards_parameters(trainer) or trainer.strategy.gather_for_generation:
            normalize = next(each for each in trainer.callbacks if isinstance(each, NormalizeReward))
            normalize.reference = partial(_allocated, normalize.reference)
        gc.collect()
        self.other, self.meter.most = allocated() - tensor_bytes(), 0


def _allocated(build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """Builds a model and copies its weights to allocated memory, since weights mapped from a file are not measured."""
    net = build()
    for weight in net.parameters():
        weight.data = weight.data.clone()
    return net


def write_pairs(folder: Path) -> None:
    """Turns the prompts into preference pairs."""
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    pairs = [json.dumps({**row, "chosen": "yes", "rejected": "no"}) for row in rows]
    (folder / "pairs.jsonl").write_text("\n".join(pairs) + "\n", encoding="utf-8")


def run(folder: Path, overrides: list[str]) -> None:
    """Trains, and prints how much memory normalising took and how much was planned."""
    silence_libraries()
    if not (folder / "pairs.jsonl").exists():
        write_nets("llama", folder)
        write_pairs(folder)
    common = [setting for setting in SETTINGS if "ppo" not in setting]
    given = [f"data.path={folder / 'pairs.jsonl'}", f"model.pretrained={folder / 'actor'}", "model.tokenizer=null"]
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("train", [*common, *OF_STAGE, *given, *overrides])
    with open_dict(config):
        config.run_dir = str(folder)
    planned = peak([moment for moment in moments(job_of(config, "reward")) if moment.phase == "normalize"])
    stage, meter = prepare(config, "reward", folder, load_renderer(config)), Meter()
    measure, callbacks = Measure(meter), stage.trainer.callbacks  # type: ignore[attr-defined]
    callbacks.insert(next(i for i, each in enumerate(callbacks) if isinstance(each, NormalizeReward)), measure)
    stage.data.setup("fit")
    with meter:
        stage.trainer.fit(stage.module, stage.data)
    if stage.trainer.is_global_zero:
        took = meter.most - measure.other
        print(f"measured {took / 2**20:.0f} MiB, planned {planned.total / 2**20:.0f} ({planned.total / took - 1:+.1%})")
        print(planned.what, {kind: round(size / 2**20) for kind, size in by_kind(planned.held).items()})


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2:])
