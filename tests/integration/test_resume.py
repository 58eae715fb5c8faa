"""A resumed run leaves the same files and results as a run that was never stopped."""

import csv
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from support import trainer

from lightning_rlhf import ModelSource, Sampling, TextReward, load_causal_lm
from lightning_rlhf.callbacks import (
    Health,
    History,
    NormalizeReward,
    RolloutMetrics,
    RunCheckpoint,
    RunRecord,
    SampleTable,
    Throughput,
)
from lightning_rlhf.data.batches import SFTBatch
from lightning_rlhf.errors import UserError
from lightning_rlhf.hooks import RLHFCallback
from lightning_rlhf.run_log import everything_logged

GOLD = TextReward(lambda prompts, responses: [len(response) / 100 for response in responses])
EVALUATE: dict[str, Any] = {"limit_val_batches": 1.0, "num_sanity_val_steps": -1}


class Evaluations(RLHFCallback):
    """Records the iterations of all evaluations."""

    def __init__(self) -> None:
        self.iterations: list[int] = []

    def on_evaluation_end(self, trainer: Any, module: Any, iteration: int, samples: list[dict[str, Any]]) -> None:
        self.iterations.append(iteration)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("stage", ["sft", "ppo", "dpo"])
def test_the_state_before_training_belongs_to_the_checkpoint(stage: str, parts: Callable, tmp_path: Path) -> None:
    def run(name: str, *callbacks: Any, checkpoint: Path | None = None, **settings: Any) -> tuple[Any, list[int]]:
        evaluations, logger = Evaluations(), CSVLogger(tmp_path / name, "", "")
        fitted = trainer(tmp_path, evaluations, *callbacks, logger=logger, **EVALUATE, **settings)
        module, data = parts(stage, gold=GOLD)
        if stage == "sft":
            data.prompts_held_out = str(tmp_path / "prompts.jsonl")
        fitted.fit(module, data, ckpt_path=checkpoint)
        return module, evaluations.iterations

    (tmp_path / "prompts.jsonl").write_text('{"prompt": "My kettle leaks."}\n{"prompt": "My door is stuck."}\n')
    whole, iterations = run("whole", max_epochs=3)
    assert iterations == [0, 1, 2, 3]
    run("first", ModelCheckpoint(tmp_path, "last"), max_epochs=2, enable_checkpointing=True)
    resumed, iterations = run("rest", max_epochs=3, checkpoint=tmp_path / "last.ckpt")
    assert iterations == [3]
    assert resumed.answers.before == whole.answers.before
    assert "-1" not in [row["epoch"] for row in rows_of(tmp_path / "rest")]
    rates = [[row["val/gold_win_rate"] for row in rows_of(tmp_path / name)] for name in ("rest", "whole")]
    rest, expected = ([rate for rate in each if rate][-1] for each in rates)
    assert rest == expected != "0.5"


class Stop(pl.Callback):
    """Sends this process Ctrl-C, or another signal, in the middle of the update after `step` steps."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


def run(
    parts: Callable,
    stage: str,
    folder: Path,
    *callbacks: pl.Callback,
    checkpoint: Path | None = None,
    stage_settings: dict[str, Any] | None = None,
    **settings: Any,
) -> tuple[pl.Trainer, Any]:
    """Runs a stage with the callbacks of `train`, some of which write files."""
    kept = [RolloutMetrics(), Throughput(), Health(), SampleTable(every=1), History()]
    record, saving = RunRecord(stage, 1), RunCheckpoint(str(folder / "checkpoints"), filename="last")
    saving_settings = {"enable_checkpointing": True, "logger": CSVLogger(folder, "", ""), "log_every_n_steps": 1}
    fitted = trainer(folder, *kept, record, *callbacks, saving, **EVALUATE, **saving_settings, **settings)
    module, data = parts(stage, **(stage_settings or {}))
    with suppress(SystemExit):
        # Lightning ends this way after Ctrl-C.
        fitted.fit(module, data, ckpt_path=checkpoint)
    return fitted, module


def timeless(folder: Path) -> list[dict[str, str]]:
    """Returns the rows of `metrics.csv` without columns that depend on the clock or the machine."""
    return [{name: cell for name, cell in row.items() if not name.startswith("perf/")} for row in rows_of(folder)]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in one folder", "in another folder"])
@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "dpo"])
def test_a_run_that_is_stopped_twice_leaves_what_an_uninterrupted_one_leaves(
    stage: str, elsewhere: bool, parts: Callable, tmp_path: Path
) -> None:
    settings = {"max_epochs": 3, "stage_settings": {} if stage == "reward" else {"gold": GOLD}}
    uninterrupted, whole = run(parts, stage, tmp_path / "whole", **settings)
    steps = uninterrupted.global_step // 3
    folders = [tmp_path / (f"part{number}" if elsewhere else "part") for number in range(3)]
    # The first stop is in the middle of the first epoch, and the second at the last step of the second epoch.
    stops = [[Stop(1)], [Stop(2 * steps - 1)], []]
    checkpoint = None
    for folder, stop in zip(folders, stops, strict=True):
        fitted, resumed = run(parts, stage, folder, *stop, checkpoint=checkpoint, **settings)
        assert fitted.interrupted == bool(stop)
        checkpoint = folder / "checkpoints" / "last.ckpt"
    assert timeless(folders[-1]) == timeless(tmp_path / "whole")
    samples = [folder / "samples.jsonl" for folder in (folders[-1], tmp_path / "whole")]
    assert [path.exists() for path in samples] == [stage in ("ppo", "dpo")] * 2
    if stage in ("ppo", "dpo"):
        assert samples[0].read_bytes() == samples[1].read_bytes()
    results = [json.loads((folder / "result.json").read_text()) for folder in (folders[-1], tmp_path / "whole")]
    for key in ("status", "metrics", "alarms"):
        assert results[0][key] == results[1][key]
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_in_the_first_epoch_leaves_a_checkpoint_and_the_handlers_of_before(
    number: int, parts: Callable, tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with everything_logged() as log:
        log.open(tmp_path / "train.log")
        fitted, _ = run(parts, "sft", tmp_path, Stop(1, number))
    assert fitted.interrupted
    # What a handler says goes past the console.
    assert " stopping after this step, with a checkpoint; " in (tmp_path / "train.log").read_text()
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "interrupted"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_ctrl_c_stops_at_once_and_without_a_checkpoint(parts: Callable, tmp_path: Path) -> None:
    after = []

    class Impatient(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 1:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
                after.append("went on")

    fitted, _ = run(parts, "sft", tmp_path, Impatient())
    assert fitted.interrupted
    assert (fitted.global_step, after) == (1, [])
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "interrupted"


def test_sigterm_before_the_first_step_stops_the_evaluation(parts: Callable, tmp_path: Path) -> None:
    class Early(pl.Callback):
        def on_validation_batch_start(self, *_: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    fitted, _ = run(parts, "dpo", tmp_path, Early())
    assert fitted.interrupted
    assert fitted.global_step == 0
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "interrupted"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda loader: loader.update(buffer=list(loader["buffer"].values())), "by a version whose experience differs"),
        (lambda loader: loader.pop("max_length"), "an older version .* has no 'max_length': resume with that version"),
    ],
)
def test_a_checkpoint_of_an_older_version_within_an_iteration_is_refused_in_one_message(
    change: Callable, message: str, parts: Callable, tmp_path: Path
) -> None:
    run(parts, "ppo", tmp_path, Stop(1))
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    change(content["PromptDataModule"]["loader"])
    torch.save(content, checkpoint)
    with pytest.raises(UserError, match=message):
        run(parts, "ppo", tmp_path, checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        pytest.param({"every_minutes": 1e-9}, [(1, 8, 2), (2, 16, 4), (3, 24, 6), (4, 32, 8)], id="minutes"),
        pytest.param({"every_minutes": None, "every_updates": 3}, [(3, 24, 6), (4, 32, 8)], id="updates"),
        pytest.param({"every_minutes": None}, [(4, 32, 8)], id="neither"),
    ],
)
def test_checkpoints_by_time_stand_between_two_steps_and_not_between_parts_of_one(
    limit: dict[str, Any], expected: list[tuple[int, int, int]], parts: Callable, tmp_path: Path
) -> None:
    steps = []

    class Saved(pl.Callback):
        def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
            loader = checkpoint["SFTDataModule"]["loader"]
            steps.append((trainer.global_step, loader["row"], trainer.fit_loop.epoch_loop.batch_idx + 1))

    saving = RunCheckpoint(str(tmp_path / "checkpoints"), **limit, filename="last")
    settings = {"accumulate_grad_batches": 2, "limit_train_batches": 8, "enable_checkpointing": True}
    trainer(tmp_path, Saved(), saving, **settings).fit(*parts("sft"))
    # There are four steps of two parts, with minibatches of eight; the last step ends the epoch.
    assert steps == expected


@pytest.mark.parametrize(("minibatch_size", "parts_after"), [(8, 2), (4, 1), (16, 4)])
def test_another_size_in_the_middle_of_an_epoch_reads_what_was_left_and_evaluates_the_end(
    minibatch_size: int, parts_after: int, parts: Callable, tmp_path: Path
) -> None:
    run(parts, "sft", tmp_path / "first", Stop(3), limit_train_batches=8)
    checkpoint = tmp_path / "first" / "checkpoints" / "last.ckpt"

    def resized(stage: str) -> tuple[Any, Any]:
        module, data = parts(stage)
        data.minibatch_size = minibatch_size
        return module, data

    folder, steps = tmp_path / "rest", 32 // minibatch_size
    fitted, _ = run(
        resized,
        "sft",
        folder,
        checkpoint=checkpoint,
        accumulate_grad_batches=parts_after,
        limit_train_batches=64 // minibatch_size * parts_after,
    )
    # Four steps of eight rows were made in an epoch of 64 rows.
    assert fitted.global_step == 4 + steps
    assert json.loads((folder / "result.json").read_text())["metrics"]["loss"] > 0


def test_another_token_budget_in_the_middle_of_an_epoch_reads_what_was_left(parts: Callable, tmp_path: Path) -> None:
    def within(budget: int) -> Callable[..., tuple[Any, Any]]:
        def build(stage: str) -> tuple[Any, Any]:
            module, data = parts(stage)
            data.max_tokens_per_micro_batch = budget
            return module, data

        return build

    class Read(pl.Callback):
        def __init__(self) -> None:
            self.rows: list[tuple[int, ...]] = []

        def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: SFTBatch, batch_idx: int) -> None:
            rows = zip(*batch[:3], strict=True)
            # Rows that only fill a part have nothing to learn.
            self.rows += [tuple(ids[mask].tolist()) for ids, mask, learnt in rows if learnt.any()]

    class StopOnce(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: SFTBatch, batch_idx: int) -> None:
            if batch_idx == 13:
                os.kill(os.getpid(), signal.SIGINT)

    whole, rest = Read(), Read()
    run(within(500), "sft", tmp_path / "whole", whole, accumulate_grad_batches=4)
    run(within(500), "sft", tmp_path / "first", StopOnce(), accumulate_grad_batches=4)
    checkpoint = tmp_path / "first" / "checkpoints" / "last.ckpt"
    fitted, _ = run(within(70), "sft", tmp_path / "rest", rest, checkpoint=checkpoint, accumulate_grad_batches=8)
    # Four of nine minibatches of eight rows were read, in four parts each; a part has one row now.
    assert fitted.global_step == 9
    assert sorted(rest.rows) == sorted(whole.rows[32:]) != []


def test_a_reward_model_that_goes_on_from_its_end_is_normalised_and_keeps_its_metrics(
    parts: Callable, source: ModelSource, tmp_path: Path
) -> None:
    def normalize() -> NormalizeReward:
        return NormalizeReward(partial(load_causal_lm, source), Sampling(max_new_tokens=8), num_samples=16)

    _, whole = run(parts, "reward", tmp_path / "whole", normalize())
    checkpoint = tmp_path / "whole" / "checkpoints" / "last.ckpt"
    fitted, again = run(parts, "reward", tmp_path / "again", normalize(), checkpoint=checkpoint)
    assert fitted.max_epochs == 1
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "again")]
    assert results[1]["metrics"] == results[0]["metrics"] != {}
    assert results[1]["seconds"] >= results[0]["seconds"] - 1
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_a_run_that_trains_nothing_is_an_error_and_not_finished(parts: Callable, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sft: no step was taken, so nothing was trained"):
        run(parts, "sft", tmp_path, limit_train_batches=0)
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "failed"


def test_fewer_epochs_than_were_trained_are_an_error(parts: Callable, tmp_path: Path) -> None:
    run(parts, "sft", tmp_path, limit_train_batches=2, max_epochs=2)
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(UserError, match="max_epochs=1: the checkpoint has trained 2 epochs"):
        run(parts, "sft", tmp_path / "less", checkpoint=checkpoint, limit_train_batches=2)


def test_throughput_counts_the_seconds_of_the_whole_epoch_and_nothing_before_it(
    parts: Callable, tmp_path: Path
) -> None:
    start = time.perf_counter()
    run(parts, "ppo", tmp_path / "first", Stop(1))
    run(parts, "ppo", tmp_path / "rest", checkpoint=tmp_path / "first" / "checkpoints" / "last.ckpt")
    passed = time.perf_counter() - start
    (row,) = [row for row in rows_of(tmp_path / "rest") if row["perf/update_seconds"]]
    assert 0 < float(row["perf/update_seconds"]) < passed
    # Sixteen responses were sampled within the time of rollout and update.
    seconds = float(row["perf/update_seconds"]) + float(row["perf/rollout_seconds"])
    assert float(row["perf/samples_per_second"]) == pytest.approx(16 / seconds)


def test_an_end_whose_evaluation_is_lost_is_an_error_and_no_empty_result(parts: Callable, tmp_path: Path) -> None:
    settings = {"limit_train_batches": 2, **EVALUATE}
    # Lightning counts an epoch as finished if there is a checkpoint of its last step, and does not evaluate it again.
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2)
    trainer(tmp_path, RunRecord("sft", 1), saving, **settings, enable_checkpointing=True).fit(*parts("sft"))
    resumed = trainer(tmp_path, RunRecord("sft", 1), **settings)
    with pytest.raises(UserError, match="sft: the weights of step 2 were not evaluated"):
        resumed.fit(*parts("sft"), ckpt_path=tmp_path / "step=2.ckpt")
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "failed"


def test_a_run_that_is_ended_early_need_not_wait_for_its_evaluation(parts: Callable, tmp_path: Path) -> None:
    class Enough(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
            trainer.should_stop = True

    run(parts, "ppo", tmp_path, Enough(), max_epochs=10, check_val_every_n_epoch=10)
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["status"], result["metrics"]) == ("stopped", {})
