"""The best weights of a run, beside the last."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import load_file
from support import command, result_of, run_folder, trainer

from lightning_rlhf import ModelSource, Sampling, load_causal_lm
from lightning_rlhf.callbacks import Best, Export, NormalizeReward, RunCheckpoint, RunRecord
from lightning_rlhf.errors import UserError

EVALUATE: dict[str, Any] = {"limit_val_batches": 1.0}


class Ruin(pl.Callback):
    """Sets all weights to 0 before each evaluation from an epoch on, and keeps those of the end of each epoch.

    The loss is then log(814) = 6.70, as all 814 tokens are equally likely; after the first epoch it is 6.41.
    """

    def __init__(self, after: int) -> None:
        self.after = after
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_validation_start(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.current_epoch >= self.after:
            for weight in module.parameters():
                weight.data.zero_()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        self.weights.append({name: weight.clone() for name, weight in module.net.state_dict().items()})


def exported(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_the_best_weights_are_exported_beside_the_last(parts: Callable, tmp_path: Path) -> None:
    ruin = Ruin(after=2)
    trainer(tmp_path, ruin, Best("sft"), Export("sft"), RunRecord("sft", 1), max_epochs=4, **EVALUATE).fit(
        *parts("sft")
    )
    best = exported(tmp_path / "model_best")
    assert best
    assert all(torch.equal(weight, ruin.weights[1][name]) for name, weight in best.items())
    last = exported(tmp_path / "model")
    assert all(torch.equal(weight, ruin.weights[3][name]) for name, weight in last.items())
    found = result_of(tmp_path)["best"]
    assert (found["monitor"], found["mode"], found["epoch"]) == ("val/loss", "min", 2)
    assert found["step"] == 2 * 9  # An epoch has 9 minibatches, the last of which is smaller.
    assert found["model_dir"] == str(tmp_path / "model_best")
    assert "model/ has the last weights, and model_best/ those of step 18" in found["about"]
    assert json.loads((tmp_path / "model_best" / "lightning_rlhf.json").read_text())["weights"] == "best"


def test_a_run_that_gets_no_better_stops_and_says_why(
    parts: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    best = Best("sft", patience=2)
    fitted = trainer(tmp_path, Ruin(after=1), best, RunRecord("sft", 1), max_epochs=9, **EVALUATE)
    fitted.fit(*parts("sft"))
    assert fitted.current_epoch == 3
    result = result_of(tmp_path)
    assert result["status"] == "finished"
    assert "val/loss has not fallen below " in result["best"]["stopped"]
    assert result["best"]["stopped"].endswith(" in 2 evaluations")
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("best: ")]
    assert said[0].endswith("so the run stops after step 27")
    assert said[1].startswith("best: model/ has the last weights, and model_best/ those of step 9 ")


def evaluated(best: Best, *values: float, **state: Any) -> Any:
    """Shows one evaluation after the other, and returns the trainer."""
    defaults = {"sanity_checking": False, "should_stop": False, "is_global_zero": True}
    running: Any = SimpleNamespace(**(defaults | {"current_epoch": 0, "global_step": 1} | state))
    for value in values:
        running.callback_metrics = {"val/loss": value}
        best.on_validation_end(running, None)  # type: ignore[arg-type]
    return running


def test_only_evaluations_in_a_row_count_and_a_resumed_run_counts_on() -> None:
    best = Best("sft", patience=2)
    assert not evaluated(best, 3.0, 4.0, 2.0, 4.0).should_stop
    resumed = Best("sft", patience=2)
    resumed.load_state_dict(best.state_dict())
    assert evaluated(resumed, 2.0).should_stop
    # The weights of a run that begins are not among its best.
    begun = Best("sft")
    evaluated(begun, 1.0, sanity_checking=True)
    assert begun.value is None


def test_the_best_weights_may_be_those_within_an_epoch(parts: Callable, tmp_path: Path) -> None:
    kept: dict[int, dict[str, torch.Tensor]] = {}

    class RuinLater(pl.Callback):
        def on_validation_start(self, trainer: pl.Trainer, module: Any) -> None:
            if trainer.global_step > 3:
                for weight in module.parameters():
                    weight.data.zero_()
            kept[trainer.global_step] = {name: weight.clone() for name, weight in module.net.state_dict().items()}

    best = Best("sft")
    trainer(tmp_path, RuinLater(), best, max_epochs=1, val_check_interval=3, **EVALUATE).fit(*parts("sft"))
    assert (best.step, sorted(kept)) == (3, [3, 6, 9])
    exports = exported(tmp_path / "model_best")
    assert all(torch.equal(weight, kept[3][name]) for name, weight in exports.items())


def test_a_resumed_run_remembers_the_best_and_takes_its_export_along(parts: Callable, tmp_path: Path) -> None:
    keep = partial(RunCheckpoint, filename="last", save_top_k=1, every_n_epochs=1, save_on_train_epoch_end=True)
    first, second = tmp_path / "first", tmp_path / "second"
    trainer(first, Best("sft"), keep(dirpath=str(first)), enable_checkpointing=True, **EVALUATE).fit(*parts("sft"))
    best = Best("sft", patience=1)
    fitted = trainer(second, Ruin(after=1), best, RunRecord("sft", 1), max_epochs=5, **EVALUATE)
    fitted.fit(*parts("sft"), ckpt_path=str(first / "last.ckpt"), weights_only=True)
    assert (best.epoch, fitted.current_epoch) == (1, 2)
    ours, theirs = exported(second / "model_best"), exported(first / "model_best")
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


def test_the_best_reward_model_has_the_scale_of_the_last_and_training_does_not_notice(
    parts: Callable, source: ModelSource, tmp_path: Path
) -> None:
    def run(name: str, *callbacks: pl.Callback, epochs: int = 3) -> None:
        sampling = Sampling(max_new_tokens=8)
        normalize = NormalizeReward(partial(load_causal_lm, source), sampling, num_samples=16, batch_size=8)
        callbacks = (normalize, Export("reward"), *callbacks)
        trainer(tmp_path / name, *callbacks, max_epochs=epochs, **EVALUATE).fit(*parts("reward"))

    best = Best("reward", monitor="loss")
    run("best", best)
    run("plain")
    with_best, without = exported(tmp_path / "best" / "model"), exported(tmp_path / "plain" / "model")
    assert all(torch.equal(weight, without[name]) for name, weight in with_best.items())
    # A run that ends there has these weights as its last ones.
    run("short", epochs=best.epoch)
    kept, last = exported(tmp_path / "best" / "model_best"), exported(tmp_path / "short" / "model")
    assert all(torch.equal(weight, last[name]) for name, weight in kept.items())


@pytest.mark.parametrize(
    ("monitor", "mode", "expected"),
    [
        (None, None, "min"),
        ("val/perplexity", None, "min"),
        ("val/gold_rate", None, "max"),
        ("absolute_error", None, "min"),
        ("val/kl", "max", "max"),
    ],
)
def test_the_mode_follows_the_metric_unless_it_is_given(monitor: str | None, mode: Any, expected: str) -> None:
    best = Best("sft", monitor=monitor, mode=mode)
    best._monitored(
        {name: 1.0 for name in ("val/loss", "val/perplexity", "val/gold_rate", "val/absolute_error", "val/kl")}
    )
    assert best.record()["mode"] == expected


def test_an_unknown_metric_is_refused_with_those_that_there_are(parts: Callable, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"callbacks.best.monitor=val/los: sft has no such metric; it has val/loss, val/per"
    ):
        trainer(tmp_path, Best("sft", monitor="los"), **EVALUATE).fit(*parts("sft"))


@pytest.mark.parametrize("settings", [{"mode": "lowest"}, {"patience": 0}])
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"callbacks.best.{next(iter(settings))}="):
        Best("sft", **settings)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_keep_the_best_weights_together(strategy: str, tmp_path: Path) -> None:
    sizes = ["sft.trainer.max_epochs=2", "+sft.trainer.limit_train_batches=2", "rollout.sampling.max_new_tokens=8"]
    devices = [f"strategy={strategy}", "trainer.devices=2"]
    done = command(tmp_path, "model=tiny", "stage=sft", "callbacks=best", *sizes, *devices)
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path)
    assert result_of(folder)["best"]["epoch"] == 2
    assert exported(folder / "model_best").keys() == exported(folder / "model").keys()
    assert "model_best/ those of step 4" in (folder / "report.html").read_text()
