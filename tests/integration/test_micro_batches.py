"""The command line shares minibatches so that no micro-batch exceeds its token budget, or the memory."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from support import TINY, command, keep, result_of, run_folder

from lightning_rlhf.assembly import micro_batches
from lightning_rlhf.assembly.micro_batches import adapted_config, choose_parts, most_tokens
from lightning_rlhf.assembly.plan_job import job_of
from lightning_rlhf.assembly.plan_stage import fragmentation
from lightning_rlhf.assembly.renderer import load_renderer
from lightning_rlhf.assembly.stage import PreparedStage, prepare, read_data
from lightning_rlhf.data.adapting import collected
from lightning_rlhf.data.budget import Load
from lightning_rlhf.planner.plan import Plan
from lightning_rlhf.planner.this_machine import HostMemory


def prepared(folder: Path, stage: str, *overrides: str) -> PreparedStage:
    """A stage of the demo with the tiny model, whose data have been read."""
    settings = [*keep(TINY, stage), "experiment=none", "data=demo", "logger=none", *overrides]
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("train", settings)
    config.run_dir = str(folder)
    found = prepare(config, stage, folder, load_renderer(config))
    read_data(found)
    return found


def planned(stage: PreparedStage) -> Plan:
    return Plan(job_of(adapted_config(stage), stage.record.name), fragmentation())


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_a_budget_of_tokens_becomes_the_fewest_parts_for_the_lengths_of_the_data(stage: str, tmp_path: Path) -> None:
    block = "reward_model" if stage == "reward" else stage
    made: Any = prepared(tmp_path, stage, f"{block}.data.max_tokens_per_micro_batch=1000")
    choose_parts(made)
    parts = made.trainer.accumulate_grad_batches
    assert 1 < parts < 64
    assert parts == Load(64, made.data.row_tokens()).parts(1000)
    made.data.trainer = made.trainer
    loader = made.data.make_train_loader()
    tokens = [batch.input_ids.numel() for batch in loader]
    assert loader.shares.num_parts == parts
    assert 500 < max(tokens) <= (most_tokens(made) or 0) <= 1000


def test_the_parts_of_ppo_have_room_for_the_longest_prompt_with_the_longest_response(tmp_path: Path) -> None:
    made: Any = prepared(tmp_path, "ppo", "reward=gold", "ppo.module.max_tokens_per_micro_batch=150")
    longest = int(made.data.train_prompts.numbers("length").max()) + 8
    choose_parts(made)
    # Of eight rows, so many are a part.
    assert 2 <= 150 // longest < 8
    assert made.trainer.accumulate_grad_batches == -(-8 // (150 // longest))
    assert planned(made).job.scored_rows == 150 // planned(made).job.row_tokens


def test_a_budget_makes_the_plan_of_scoring_and_update_smaller(tmp_path: Path) -> None:
    plain, within = (
        planned(prepared(tmp_path, "ppo", "reward=gold", f"ppo.module.max_tokens_per_micro_batch={budget}")).phases
        for budget in ("null", "150")
    )
    assert within["scoring"].total < plain["scoring"].total
    assert within["update"].total < plain["update"].total


def test_the_user_may_ask_for_more_parts_than_a_budget_needs(tmp_path: Path) -> None:
    overrides = ("sft.data.max_tokens_per_micro_batch=1000", "sft.trainer.accumulate_grad_batches=64")
    made = prepared(tmp_path, "sft", *overrides)
    choose_parts(made)
    assert made.trainer.accumulate_grad_batches == 64


def test_a_row_beyond_the_budget_is_named(tmp_path: Path) -> None:
    made: Any = prepared(tmp_path, "sft", "sft.data.max_tokens_per_micro_batch=20")
    with collected() as notes:
        choose_parts(made)
    longest = int(made.data.row_tokens().max())
    assert notes == [
        f"max_tokens_per_micro_batch=20: rows have up to {longest} tokens, so a row that is longer is a part by itself"
    ]
    assert made.trainer.accumulate_grad_batches == 64


def test_memory_that_is_too_small_gives_a_budget_under_which_the_plan_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Any = prepared(tmp_path, "sft")
    whole = planned(made)
    # Enough for the configured minibatch.
    with collected() as notes:
        monkeypatch.setattr(micro_batches, "host_memory", lambda: HostMemory(whole.peak.total, "a test"))
        choose_parts(made)
        assert (made.trainer.accumulate_grad_batches, made.data.max_tokens_per_micro_batch) == (1, None)
        memory = whole.peak.total // 2
        monkeypatch.setattr(micro_batches, "host_memory", lambda: HostMemory(memory, "a test"))
        choose_parts(made)
    budget, parts = made.data.max_tokens_per_micro_batch, made.trainer.accumulate_grad_batches
    assert parts > 1
    assert notes == [
        f"max_tokens_per_micro_batch={budget} and accumulate_grad_batches={parts}: micro-batches of 64 rows would need "
        f"{whole.peak.total / 2**20:.1f} MiB, and there are {memory / 2**20:.1f} MiB of host memory"
    ]
    assert planned(made).fits(None, memory)
    # Rows of the demo are shorter than the plan assumes, so fewer parts are enough.
    assert 64 // parts > planned(made).job.micro_batch_size


def test_memory_that_no_micro_batch_fits_into_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: Any = prepared(tmp_path, "sft")
    monkeypatch.setattr(micro_batches, "host_memory", lambda: HostMemory(1000, "a test"))
    choose_parts(made)
    assert (made.trainer.accumulate_grad_batches, made.data.max_tokens_per_micro_batch) == (1, None)


def test_a_run_prints_the_most_tokens_of_a_micro_batch(tmp_path: Path) -> None:
    done = command(tmp_path, *keep(TINY, "sft"), "sft.data.max_tokens_per_micro_batch=300", "dry_run=true")
    assert done.returncode == 0, done.stderr
    names, numbers = done.stdout[done.stdout.index(" minibatch ") :].splitlines()[:2]
    assert names.split() == ["minibatch", "processes", "accumulate", "micro-batch", "tokens", "at", "most"]
    minibatch, _, parts, rows, tokens = map(int, numbers.split())
    assert parts > 1
    assert rows == -(-minibatch // parts)
    assert tokens <= 300


def test_the_card_of_an_export_tells_the_parts_that_were_used(tmp_path: Path) -> None:
    done = command(tmp_path, *keep(TINY, "sft"), "sft.data.max_tokens_per_micro_batch=1000")
    assert done.returncode == 0, done.stderr
    parts = result_of(run_folder(tmp_path))["accumulate_grad_batches"]
    assert parts > 1
    assert f"accumulate_grad_batches: {parts}\n" in (run_folder(tmp_path) / "model" / "README.md").read_text()
