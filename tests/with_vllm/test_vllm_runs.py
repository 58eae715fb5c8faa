"""Whole runs of PPO with vLLM, as a user starts them."""

import csv
from pathlib import Path

import pytest
from support import cold_command, result_of, run_folder

PPO = [
    "stage=ppo",
    "experiment=none",
    "model=tiny",
    "model.config.num_attention_heads=1",
    "model.config.num_key_value_heads=1",
    "reward=length",
    "ppo.trainer.max_epochs=3",
    "ppo.trainer.check_val_every_n_epoch=1",
    "ppo.module.rollout_batch_size=16",
    "ppo.module.minibatch_size=8",
    "ppo.module.lr=1e-3",
    "rollout.sampling.max_new_tokens=8",
    "rollout=vllm",
    "rollout.engine.cache_gib=0.05",
]


@pytest.mark.parametrize("more", [[], ["adapter=lora", "roles=shared"]], ids=["full", "shared"])
def test_three_iterations_sample_with_the_weights_of_each_update(more: list[str], tmp_path: Path) -> None:
    done = cold_command(tmp_path, *PPO, *more)
    assert done.returncode == 0, done.stderr[-3000:]
    assert result_of(run_folder(tmp_path))["status"] == "finished"
    with next(run_folder(tmp_path).rglob("metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    mismatch = [float(row["rollout/sampler_mismatch"]) for row in rows if row.get("rollout/sampler_mismatch")]
    ratios = [float(row["train/importance_max"]) for row in rows if row.get("train/importance_max")]
    kl = [float(row["rollout/kl"]) for row in rows if row.get("rollout/kl")]
    assert len(mismatch) == len(ratios) == len(kl) == 3
    assert max(mismatch) < 1e-4
    assert all(1 <= ratio < 1.001 for ratio in ratios)
    assert abs(kl[2]) > 100 * abs(kl[0]), "the updates must move the actor"
