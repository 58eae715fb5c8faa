"""The average of the weights over real optimizer steps."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from support import trainer
from torch import Tensor
from transformers import AutoModelForCausalLM

from lightning_rlhf.callbacks import EMA
from lightning_rlhf.errors import UserError

# The stages that train an actor.
STAGES = ["sft", "dpo", "ppo"]


class Weights(pl.Callback):
    """Records the actor's weights before training and after each optimizer step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._keep(module)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if trainer.global_step == len(self.steps):
            self._keep(module)

    def _keep(self, module: Any) -> None:
        actor = module.export_nets()["model"]
        self.steps.append({name: p.detach().double().clone() for name, p in actor.named_parameters()})


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_the_average_moves_once_for_each_optimizer_step(
    stage: str, accumulated: int, parts: Callable, tmp_path: Path
) -> None:
    weights, ema = Weights(), EMA(stage, decay=0.6)
    fitted = trainer(tmp_path, weights, ema, accumulate_grad_batches=accumulated)
    fitted.fit(*parts(stage))
    assert len(weights.steps) == fitted.global_step + 1 >= 5
    expected = weights.steps[0]
    for step in weights.steps[1:]:
        expected = {name: 0.6 * average + 0.4 * step[name] for name, average in expected.items()}
    assert ema.average.keys() == expected.keys()
    for name, average in ema.average.items():
        torch.testing.assert_close(average, expected[name].float(), msg=name)
        assert not torch.equal(average, weights.steps[-1][name].float()), name


@pytest.mark.parametrize("stage", STAGES)
def test_the_export_is_the_average_and_the_net_keeps_its_weights(stage: str, parts: Callable, tmp_path: Path) -> None:
    alone, _ = parts(stage)
    trainer(tmp_path, max_epochs=1).fit(alone, _)
    ema = EMA(stage, decay=0.9)
    module, data = parts(stage)
    trainer(tmp_path, ema).fit(module, data)
    for name, weight in module.state_dict().items():
        assert torch.equal(weight, alone.state_dict()[name]), name
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "model_ema").state_dict()
    for name, average in ema.average.items():
        assert torch.equal(exported[name], average), name
    manifest = json.loads((tmp_path / "model_ema" / "lightning_rlhf.json").read_text())
    assert (manifest["stage"], manifest["ema_decay"], manifest["kind"]) == (stage, 0.9, "causal_lm")
    assert "moving average with a decay of 0.9" in (tmp_path / "model_ema" / "README.md").read_text()


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_resumed_run_has_the_same_average_bit_for_bit(stage: str, parts: Callable, tmp_path: Path) -> None:
    whole = EMA(stage, decay=0.9)
    trainer(tmp_path, whole, max_epochs=4).fit(*parts(stage))
    checkpoint = ModelCheckpoint(tmp_path, filename="last", save_on_train_epoch_end=True)
    first = EMA(stage, decay=0.9)
    trainer(tmp_path, first, checkpoint, max_epochs=2, enable_checkpointing=True).fit(*parts(stage))
    torch.load(tmp_path / "last.ckpt", weights_only=True)
    rest = EMA(stage, decay=0.9)
    trainer(tmp_path, rest, max_epochs=4).fit(*parts(stage), ckpt_path=str(tmp_path / "last.ckpt"))
    for name, average in whole.average.items():
        assert torch.equal(rest.average[name], average), name
        assert not torch.equal(first.average[name], average), name


def test_frozen_weights_are_not_averaged_and_are_exported_as_they_are(parts: Callable, tmp_path: Path) -> None:
    module, data = parts("sft")
    module.configure_model()
    embedding = module.net.get_input_embeddings().weight.requires_grad_(False)
    ema = EMA("sft")
    trainer(tmp_path, ema).fit(module, data)
    trained = {name for name, weight in module.net.named_parameters() if weight.requires_grad}
    assert ema.average.keys() == trained
    assert len(trained) < len(list(module.net.parameters()))
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "model_ema")
    assert torch.equal(exported.get_input_embeddings().weight, embedding)


def test_weights_in_half_precision_have_an_average_in_full_precision(parts: Callable, tmp_path: Path) -> None:
    module, data = parts("sft")
    module.configure_model()
    for weight in module.net.parameters():
        weight.data = weight.data.bfloat16()
    ema = EMA("sft", decay=0.9)
    trainer(tmp_path, ema).fit(module, data)
    assert {average.dtype for average in ema.average.values()} == {torch.float32}
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "model_ema", dtype=torch.bfloat16).state_dict()
    for name, average in ema.average.items():
        assert torch.equal(exported[name], average.bfloat16()), name


def test_a_reward_model_gets_no_average(parts: Callable, tmp_path: Path) -> None:
    ema = EMA("reward")
    trainer(tmp_path, ema).fit(*parts("reward"))
    assert ema.average == {}
    assert not (tmp_path / "model_ema").exists()


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_that_averages_nothing_is_refused(decay: float) -> None:
    with pytest.raises(UserError, match=r"decay=.* must lie in \[0, 1\)"):
        EMA("ppo", decay=decay)
