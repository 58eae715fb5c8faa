"""Runs of PPO that sample with vLLM, as a user starts them."""

import csv
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from support import cold_command, result_of, run_folder
from transformers import PreTrainedModel

from lightning_rlhf.models.causal_lm import load_causal_lm

MODEL = ["model=tiny", "model.config.num_attention_heads=1", "model.config.num_key_value_heads=1"]
PPO = [
    *MODEL,
    "stage=ppo",
    "experiment=none",
    "reward=length",
    "ppo.trainer.max_epochs=3",
    "ppo.trainer.check_val_every_n_epoch=1",
    "ppo.module.rollout_batch_size=16",
    "ppo.module.minibatch_size=8",
    "ppo.module.lr=1e-3",
    "rollout.sampling.max_new_tokens=8",
]
IN_PROCESS = ["rollout=vllm", "rollout.engine.cache_gib=0.05"]
TWO_PROCESSES = ["strategy=ddp", "trainer.devices=2"]

# Each number of an iteration, where a minibatch that is divided among processes changes nothing but rounding.
COMPARED = ["rollout/score_mean", "rollout/kl", "rollout/response_length", "train/policy_loss", "train/value_loss"]


def model() -> PreTrainedModel:
    """Returns a model of the architecture that the runs train, with other weights."""
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        source = instantiate(compose("train", [*MODEL, "seed=7"]).model)
    return load_causal_lm(source)


def finished(folder: Path, *overrides: str) -> dict[str, list[float]]:
    """Runs PPO to its end, and returns its metrics."""
    done = cold_command(folder, *overrides, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert result_of(run_folder(folder))["status"] == "finished"
    return metrics(folder)


def metrics(folder: Path) -> dict[str, list[float]]:
    """Returns the numbers that the last run has logged under each name, in their order."""
    with next(run_folder(folder).rglob("metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}
