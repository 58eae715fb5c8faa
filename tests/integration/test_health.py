"""The alarms of Health in real runs of tiny stages."""

import json
import logging
from collections.abc import Callable
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from support import result_of, trainer

from lightning_rlhf import TextReward
from lightning_rlhf.callbacks import Health, RunRecord
from lightning_rlhf.errors import UserError

# The tiny model is random, and its responses do not end by themselves.
SOON = {"no_eos": {"window": 2}}


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("alarm")]


class NormByHand(pl.Callback):
    """Computes the norm of the gradient before each step, element by element."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: Any, optimizer: Any) -> None:
        squares = [float((p.grad.double() ** 2).sum()) for p in module.parameters() if p.grad is not None]
        self.norms.append(sum(squares) ** 0.5)


def test_an_alarm_stops_the_run_and_the_result_says_which(
    parts: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    health = Health(alarms=SOON, stop_on=["repetition", "no_eos"])
    fitted = trainer(tmp_path, health, RunRecord("ppo", 1), max_epochs=5)
    fitted.fit(*parts("ppo"))
    assert fitted.current_epoch == 2
    result = result_of(tmp_path)
    assert (result["status"], result["stopped_by"]) == ("finished", "no_eos")
    (alarm,) = result["alarms"]
    assert (alarm["name"], alarm["iteration"], alarm["step"]) == ("no_eos", 2, 8)
    assert alarm["message"].startswith("only ")
    (line,) = lines(caplog)
    assert line.startswith("alarm no_eos, iteration 2: only ")
    assert line.endswith("the run stops here")


def test_an_alarm_that_should_not_stop_the_run_is_told_once_and_logged_in_each_iteration(
    parts: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logged: list[tuple[float, float]] = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
            metrics = trainer.callback_metrics
            logged.append((float(metrics["health/no_eos"]), float(metrics["health/kl_negative"])))

    # The KL is 0 at first, and above 0.0001 later.
    alarms = {**SOON, "kl_negative": {"threshold": 1e-4, "window": 1}}
    fitted = trainer(tmp_path, Health(alarms), Watch(), RunRecord("ppo", 1), max_epochs=4)
    fitted.fit(*parts("ppo"))
    assert fitted.current_epoch == 4
    assert logged == [(0, 1), (1, 0), (1, 0), (1, 0)]
    assert len(lines(caplog)) == 2
    result = result_of(tmp_path)
    assert [alarm["name"] for alarm in result["alarms"]] == ["kl_negative", "no_eos"]
    assert "stopped_by" not in result


def test_while_a_run_goes_on_its_result_has_the_alarms_so_far(parts: Callable, tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
            result = result_of(tmp_path)
            seen.append((result["status"], len(result["alarms"])))

    trainer(tmp_path, Health(alarms=SOON), RunRecord("ppo", 1), Watch(), max_epochs=3).fit(*parts("ppo"))
    assert seen == [("running", 0), ("running", 1), ("running", 1)]


def test_outside_ppo_an_alarm_tells_the_step(parts: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module, data = parts("sft")
    module.lr = 1e30
    with pytest.raises(UserError, match="^epoch 1, step 1: not finite: train/grad_norm"):
        trainer(tmp_path, Health(skip_steps=0)).fit(module, data)
    assert lines(caplog)[0].startswith("alarm not_finite, step 1: train/grad_norm is nan: ")


def test_a_run_without_alarms_says_that_it_has_none(parts: Callable, tmp_path: Path) -> None:
    trainer(tmp_path, Health(), RunRecord("sft", 1)).fit(*parts("sft"))
    assert result_of(tmp_path)["alarms"] == []


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo"])
def test_a_gradient_that_is_not_finite_ends_the_run_before_the_step(
    stage: str, parts: Callable, tmp_path: Path
) -> None:
    module, data = parts(stage)
    module.lr = 1e30
    fitted = trainer(tmp_path, Health(skip_steps=0), RunRecord(stage, 1))
    unit = "iteration" if stage == "ppo" else "epoch"
    with pytest.raises(UserError, match=f"^{unit} 1, step 1: not finite: train/grad_norm"):
        fitted.fit(module, data)
    assert all(bool(weight.isfinite().all()) for weight in module.parameters())
    result = result_of(tmp_path)
    assert (result["status"], [alarm["name"] for alarm in result["alarms"]]) == ("diverged", ["not_finite"])


class Spoil(pl.Callback):
    """Makes the gradients of some steps NaN, and keeps the weights before and after each step."""

    def __init__(self, *steps: int) -> None:
        self.steps, self.weights, self.batches = steps, [torch.zeros(0)], list[Any]()

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)

    def on_after_backward(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.global_step + 1 in self.steps:
            next(weight for weight in module.parameters() if weight.grad is not None).grad[0] = nan

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: Any, optimizer: Any) -> None:
        self.weights.append(flat(module))


def flat(module: Any) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in module.parameters() if weight.requires_grad])


@pytest.mark.parametrize(("stage", "accumulated"), [("sft", 1), ("reward", 2), ("dpo", 1), ("ppo", 1)])
def test_a_step_whose_gradient_is_not_finite_is_skipped_and_its_batch_is_kept(
    stage: str, accumulated: int, parts: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module, data = parts(stage)
    spoil = Spoil(2)
    settings = {"accumulate_grad_batches": accumulated, "gradient_clip_val": 1.0}
    fitted = trainer(tmp_path, Health(), spoil, RunRecord(stage, 1), max_steps=4, **settings)
    fitted.fit(module, data)
    # The weights before steps 1 to 4, and after them.
    _, first, second, third, fourth = spoil.weights
    assert not torch.equal(first, second)
    assert torch.equal(second, third)
    assert not torch.equal(third, fourth)
    assert bool(flat(module).isfinite().all())
    result = result_of(tmp_path)
    assert (result["status"], result["skipped_steps"], result["alarms"]) == ("finished", 1, [])
    (line,) = (record.getMessage() for record in caplog.records if "is skipped" in record.getMessage())
    file = tmp_path / "not_finite" / "rank_0.pt"
    assert line.startswith("step 2 is skipped, because its gradient is not finite: train/grad_norm is nan")
    assert line.endswith(f"this is number 1; the batch is in {file}")
    kept = torch.load(file, weights_only=True)
    assert kept["step"] == 2
    own = spoil.batches[accumulated : 2 * accumulated]
    ids = [(batch.experience.sequences if stage == "ppo" else batch).input_ids for batch in own]
    found = [(part["experience"]["sequences"] if stage == "ppo" else part)["input_ids"] for part in kept["parts"]]
    assert len(found) == accumulated
    assert all(torch.equal(one, other) for one, other in zip(ids, found, strict=True))


def test_after_too_many_skipped_steps_in_a_row_the_run_ends_and_names_the_batch(
    parts: Callable, tmp_path: Path
) -> None:
    module, data = parts("sft")
    # Steps 1, 3 and 4 are skipped; the fifth would be the third in a row.
    fitted = trainer(tmp_path, Health(skip_steps=2), Spoil(1, 3, 4, 5), RunRecord("sft", 1), max_epochs=3)
    with pytest.raises(UserError, match=r"^epoch \d+, step 4: not finite: train/grad_norm") as error:
        fitted.fit(module, data)
    assert str(error.value).endswith(
        f"; the batch of this step is in {tmp_path}/not_finite/rank_0.pt, a file for each rank"
    )
    assert torch.load(tmp_path / "not_finite" / "rank_0.pt", weights_only=True)["step"] == 5
    assert result_of(tmp_path)["status"] == "diverged"


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
@pytest.mark.parametrize("accumulated", [1, 4])
def test_the_gradient_norm_is_that_of_a_whole_minibatch_before_clipping(
    stage: str, accumulated: int, parts: Callable, tmp_path: Path
) -> None:
    hand, health = NormByHand(), Health()
    fitted = trainer(tmp_path, health, hand, gradient_clip_val=1e-3, accumulate_grad_batches=accumulated)
    fitted.fit(*parts(stage))
    assert len(hand.norms) == fitted.global_step
    assert min(hand.norms) > 1e-3
    assert health.history["train/grad_norm"] == pytest.approx(hand.norms, rel=1e-5)
    logged = sum(hand.norms) / len(hand.norms) if stage == "ppo" else hand.norms[-1]
    assert float(fitted.callback_metrics["train/grad_norm"]) == pytest.approx(logged, rel=1e-5)


def test_the_gradient_norm_does_not_depend_on_accumulation(parts: Callable, tmp_path: Path) -> None:
    norms = []
    for accumulated in (1, 4):
        health = Health()
        trainer(tmp_path, health, accumulate_grad_batches=accumulated).fit(*parts("ppo"))
        norms.append(health.history["train/grad_norm"][0])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_a_gradient_that_overflows_under_a_loss_scaler_is_no_alarm(parts: Callable, tmp_path: Path) -> None:
    precision = MixedPrecision("bf16-mixed", "cpu")
    # Lightning makes a scaler for fp16 only, which a CPU cannot use. With this scale, every gradient overflows.
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=inf)
    health, hand = Health(), NormByHand()
    trainer(tmp_path, health, hand, plugins=[precision]).fit(*parts("sft"))
    assert hand.norms
    assert not any(map(isfinite, hand.norms))
    assert health.begun == {}


def test_the_sampled_responses_are_watched(parts: Callable, tmp_path: Path) -> None:
    health = Health()
    fitted = trainer(tmp_path, health, max_epochs=2)
    fitted.fit(*parts("ppo"))
    for name in ("rollout/kl", "rollout/kl_error", "rollout/distinct_2", "train/first_log_ratio", "train/policy_loss"):
        assert len(health.history[name]) == 2, name
    assert 0 < health.history["rollout/distinct_1"][-1] < health.history["rollout/distinct_2"][-1] <= 1
    for n in (1, 2):
        logged = float(fitted.callback_metrics[f"rollout/distinct_{n}"])
        assert logged == pytest.approx(health.history[f"rollout/distinct_{n}"][-1])


def test_gold_is_watched_from_before_training_on(parts: Callable, tmp_path: Path) -> None:
    gold = TextReward(lambda prompts, responses: [float(len(prompt) % 2) for prompt in prompts])
    health = Health()
    settings = {"num_sanity_val_steps": -1, "limit_val_batches": 1.0, "max_epochs": 2}
    module, data = parts("ppo", gold=gold)
    trainer(tmp_path, health, **settings).fit(module, data)
    assert [len(health.history[f"gold/{name}"]) for name in ("mean", "error", "score", "kl")] == [3] * 4
    assert health.history["gold/kl"][0] == pytest.approx(0, abs=1e-4)
    mean, error = health.history["gold/mean"][0], health.history["gold/error"][0]
    assert 0 < mean < 1
    # The standard error of a proportion is sqrt(p (1 - p) / n).
    assert error == pytest.approx((mean * (1 - mean) / len(module.answers.before)) ** 0.5, rel=1e-4)


def test_a_resumed_run_alarms_as_if_it_had_not_been_stopped(
    parts: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alarms = {"no_eos": {"window": 2}, "score_flat": {"window": 4, "threshold": 100.0}}
    whole = Health(alarms)
    trainer(tmp_path, whole, max_epochs=4).fit(*parts("ppo"))
    caplog.clear()
    checkpoint = ModelCheckpoint(tmp_path, filename="last", save_on_train_epoch_end=True)
    trainer(tmp_path, Health(alarms), checkpoint, max_epochs=2, enable_checkpointing=True).fit(*parts("ppo"))
    torch.load(tmp_path / "last.ckpt", weights_only=True)
    rest = Health(alarms)
    trainer(tmp_path, rest, max_epochs=4).fit(*parts("ppo"), ckpt_path=str(tmp_path / "last.ckpt"))
    assert len(whole.history["train/moved_fraction"]) == 1
    assert rest.history == whole.history
    assert rest.begun == whole.begun
    assert [(name, alarm["iteration"]) for name, alarm in rest.begun.items()] == [("no_eos", 2), ("score_flat", 4)]
    assert [line.split(",")[0] for line in lines(caplog)] == ["alarm no_eos", "alarm score_flat"]


def test_what_is_kept_has_a_limit_and_keeps_the_beginning() -> None:
    health = Health()
    for value in range(1000):
        health._watch({"x": float(value)})
    kept = health.history["x"]
    assert kept[:10] == list(range(10))
    assert kept[10:] == list(range(800, 1000))


def test_result_json_stays_plain_json(parts: Callable, tmp_path: Path) -> None:
    trainer(tmp_path, Health(alarms=SOON), RunRecord("ppo", 1), max_epochs=2).fit(*parts("ppo"))
    json.loads((tmp_path / "result.json").read_text(), parse_constant=lambda name: pytest.fail(name))


@pytest.fixture(autouse=True)
def _hear(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="lightning_rlhf")
