"""Stages in 16 bits with a plain Lightning trainer: which numbers are rounded, and which are not."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import HalfPrecision
from safetensors.torch import load_file
from support import Watch, tiny_source, trainer
from torch.utils._pytree import tree_leaves

from lightning_rlhf import export_model, load_causal_lm, load_scalar_model
from lightning_rlhf.callbacks import Health
from lightning_rlhf.distributed.weight_movement import Movement
from lightning_rlhf.errors import UserError

STAGES = ["sft", "reward", "ppo", "dpo"]
BF16 = replace(tiny_source(), dtype="bfloat16")


def in_bf16(stage: str, parts: Callable, **settings: Any) -> Any:
    """Returns module and data of a stage whose models are built in bf16."""
    module, data = parts(stage, **settings)
    policy = partial(load_causal_lm, BF16)
    module.builders |= {
        "sft": {"net": policy},
        "reward": {"net": partial(load_scalar_model, BF16, "normal")},
        "dpo": {"actor": policy, "reference": policy},
        "ppo": {"actor": policy, "reference": policy, "critic": partial(load_scalar_model, BF16, "zero")},
    }[stage]
    if stage == "ppo":
        module.reward["reward"] = load_scalar_model(BF16, "normal")
    return module, data


class Digits(pl.Callback):
    """Records the dtypes of the numbers in a batch, and torch's default dtype while a model is called."""

    def __init__(self) -> None:
        self.dtypes: set[torch.dtype] = set()
        self.defaults: set[torch.dtype] = set()
        self.batches: list[Any] = []

    def on_fit_start(self, trainer: pl.Trainer, module: Any) -> None:
        net = module.export_nets()["model"]
        net.register_forward_hook(lambda *_: self.defaults.add(torch.get_default_dtype()))

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, *_: Any) -> None:
        self.dtypes |= {leaf.dtype for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor)}
        self.batches.append(batch)

    def on_validation_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, *_: Any) -> None:
        self.dtypes |= {leaf.dtype for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor)}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("setting", ["precision", "plugins"])
def test_bf16_true_rounds_the_weights_and_nothing_else(
    stage: str, setting: str, parts: Callable, tmp_path: Path
) -> None:
    module, data = parts(stage)
    digits = Digits()
    settings = {"precision": "bf16-true"} if setting == "precision" else {"plugins": [HalfPrecision("bf16-true")]}
    trainer(tmp_path, digits, max_steps=2, **settings).fit(module, data)
    net = module.export_nets()["model"]
    assert {weight.dtype for weight in net.parameters()} == {torch.bfloat16}
    assert digits.dtypes <= {torch.int64, torch.bool, torch.float32}
    # A reward model is called part by part, so its calls are seen too.
    assert digits.defaults == {torch.float32}
    exact = dict(load_causal_lm(tiny_source()).named_buffers())
    buffers = {name.removeprefix("net."): buffer for name, buffer in net.named_buffers()}
    assert exact.keys() == buffers.keys() != set()
    assert all(torch.equal(buffer, exact[name]) for name, buffer in buffers.items())
    if stage == "ppo":
        logprobs = digits.batches[0].experience.old_logprobs
        assert not torch.equal(logprobs, logprobs.bfloat16().float())


class Rounding(pl.plugins.Precision):
    """A plugin like that of Transformer Engine, which rounds batches."""

    precision: Any = "transformer-engine"

    def convert_input(self, data: Any) -> Any:
        return pl.plugins.HalfPrecision("bf16-true").convert_input(data)


@pytest.mark.parametrize("stage", STAGES)
def test_a_plugin_that_rounds_batches_is_refused(stage: str, parts: Callable, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trainer.precision=transformer-engine: Rounding rounds .* set bf16-mixed"):
        trainer(tmp_path, plugins=[Rounding()]).fit(*parts(stage))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("stage", STAGES)
def test_nets_built_in_bf16_train_in_fp32_and_leave_in_bf16(
    stage: str, precision: Any, parts: Callable, tmp_path: Path
) -> None:
    """At a learning rate of 1e-6, bf16 weights of 0.06 would not move: the next one is 2e-4 away."""
    moved = []

    class Moves(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
            self.movement = Movement(trainer)

        def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
            moved.append(self.movement.share(trainer))

    module, data = in_bf16(stage, parts, **({"critic_lr": 1e-6} if stage == "ppo" else {}))
    module.lr = 1e-6
    trainer(tmp_path, Moves(), max_steps=8, precision=precision).fit(module, data)
    # The others are embeddings of tokens that did not occur, in models whose head is not tied to them.
    assert moved[0] > (0.5 if stage in ("reward", "ppo") else 0.95)
    net = module.export_nets()["model"]
    assert {weight.dtype for weight in net.parameters()} == {torch.float32}
    folder = export_model(net, module.renderer, tmp_path / "model", {})
    hf_net = net.net if stage == "reward" else net
    weights = dict(hf_net.named_parameters())
    for name, written in load_file(folder / "model.safetensors").items():
        assert torch.equal(written, weights[name].bfloat16()), name


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_ppo_of_nets_built_in_bf16_starts_at_its_reference(precision: Any, parts: Callable, tmp_path: Path) -> None:
    watch = Watch()
    # All batches have one shape, since rounding in bf16 depends on the shape.
    sizes = {"minibatch_size": 16, "rollout_micro_batch_size": 16, "ppo_epochs": 1}
    module, data = in_bf16("ppo", parts, **sizes)
    fitted = trainer(tmp_path, watch, max_epochs=1, precision=precision)
    fitted.fit(module, data)
    assert watch.rollouts[0].metrics["kl"] == 0
    assert float(fitted.callback_metrics["train/approx_kl"]) < 1e-10


@pytest.mark.parametrize("stage", ["ppo", "dpo"])
def test_a_reference_in_another_dtype_than_the_actor_is_refused(stage: str, parts: Callable, tmp_path: Path) -> None:
    module, data = parts(stage)
    module.builders["reference"] = partial(load_causal_lm, BF16)
    with pytest.raises(UserError, match=r"reference: its weights are torch.bfloat16 and the actor's torch.float32"):
        trainer(tmp_path).fit(module, data)


@pytest.mark.parametrize(("precision", "rings"), [("bf16-true", True), ("bf16-mixed", False)])
def test_health_tells_that_weights_in_16_bits_stand_still(
    precision: Any, rings: bool, parts: Callable, tmp_path: Path
) -> None:
    health = Health()
    module, data = in_bf16("sft", parts)
    module.lr = 1e-6
    trainer(tmp_path, health, max_epochs=2, max_steps=17, precision=precision).fit(module, data)
    # At a rate of 1e-6, only bf16 weights below 3e-4 can reach the next number, which is about 1% of them.
    (share,) = health.history["train/moved_fraction"]
    assert share < 0.05 if rings else share > 0.95
    assert ("weights_stand_still" in health.begun) == rings


def test_a_run_whose_checkpoint_has_weights_in_bf16_goes_on_in_fp32(parts: Callable, tmp_path: Path) -> None:
    module, data = in_bf16("sft", parts)
    saving = ModelCheckpoint(tmp_path / "checkpoints", filename="last", every_n_train_steps=2)
    trainer(tmp_path, saving, max_steps=2, precision="bf16-true", enable_checkpointing=True).fit(module, data)
    saved = torch.load(saving.best_model_path, weights_only=False)["state_dict"]
    assert {weight.dtype for weight in saved.values()} == {torch.bfloat16}
    module, data = in_bf16("sft", parts)
    fitted = trainer(tmp_path, max_steps=4)
    fitted.fit(module, data, ckpt_path=saving.best_model_path)
    averages = [state["exp_avg"].dtype for state in fitted.optimizers[0].state.values()]
    assert fitted.global_step == 4
    assert {weight.dtype for weight in module.net.parameters()} | set(averages) == {torch.float32}
    weights = dict(module.net.named_parameters())
    changes = [float((weight - saved[f"net.{name}"].float()).abs().max()) for name, weight in weights.items()]
    # Adam has made two steps at a rate of 1e-3.
    assert 0 < min(changes) <= max(changes) < 3e-3
