"""A plan is about the minibatch that `train` will use if there are few rows."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from lightning_rlhf.assembly.plan_rows import with_filled_minibatch
from lightning_rlhf.assembly.stage_checks import minibatch_settings
from lightning_rlhf.stages import STAGES


def composed(folder: Path, stage: str, rows: int, *overrides: str) -> DictConfig:
    """The configuration of a run on a file with so many pairs, of which the first prompt or more are held out."""
    pairs = [{"prompt": f"Why {row}?", "chosen": "Because.", "rejected": "No."} for row in range(rows)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    files = ["data=files", f"data.path={folder}/pairs.jsonl", "data.val_fraction=0.01", "experiment=none", "run_dir=x"]
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return compose("train", [f"stage={stage}", "model=tiny", *files, *overrides])


def planned(config: DictConfig, stage: str) -> tuple[int, list[str]]:
    adapted, notes = with_filled_minibatch(config, stage)
    return minibatch_settings(adapted[STAGES[stage].block]).minibatch_size, notes


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_few_rows_make_a_small_minibatch_that_is_shared_equally(stage: str, tmp_path: Path) -> None:
    # One of the 20 prompts is held out, and 18 of the other 19 rows divide among two processes.
    config = composed(tmp_path, stage, 20, "strategy=ddp", "trainer.devices=2")
    assert planned(config, stage) == (
        18,
        ["minibatch_size=64: there are only 19 rows to train on, so a minibatch has 18"],
    )


def test_a_minibatch_of_ppo_is_at_most_a_rollout(tmp_path: Path) -> None:
    config = composed(tmp_path, "ppo", 20, "ppo.module.rollout_batch_size=16")
    assert planned(config, "ppo")[0] == 16


def test_many_rows_fill_the_minibatch_and_data_that_are_not_there_leave_it(tmp_path: Path) -> None:
    assert planned(composed(tmp_path, "sft", 200), "sft") == (64, [])
    config = composed(tmp_path, "sft", 20)
    (tmp_path / "pairs.jsonl").unlink()
    assert planned(config, "sft") == (64, [])
