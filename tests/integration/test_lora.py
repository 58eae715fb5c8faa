"""Stages that train adapters: which weights change, what a checkpoint contains, and what is exported."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf
from safetensors.torch import load_file
from support import TINY, TINY_DPO, Recorder, command, keep, run_folder, tiny_source, trainer
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from lightning_rlhf.assembly.export import export
from lightning_rlhf.callbacks import AdapterCheck
from lightning_rlhf.distributed.phases import num_parameters
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.lora import Lora
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.scalar import load_scalar_model
from lightning_rlhf.rewards import TextReward
from lightning_rlhf.rollout.credit import Credit

STAGES = ("sft", "reward", "dpo", "ppo")
SOURCE = replace(tiny_source(), adapter=Lora(rank=4))
IDS = torch.arange(2, 14)[None]


def nets(stage: str, quantization: str | None = None) -> dict[str, Any]:
    """Returns the models of a stage by the names of its module's arguments."""
    source = replace(SOURCE, quantization=quantization)
    actor, reference = partial(load_causal_lm, source), partial(load_causal_lm, source.frozen)
    if stage == "sft":
        return {"net": actor}
    if stage == "reward":
        return {"net": partial(load_scalar_model, source, "normal")}
    if stage == "dpo":
        return {"actor": actor, "reference": reference}
    return {
        "actor": actor,
        "reference": reference,
        "critic": partial(load_scalar_model, source, "zero"),
        "reward": load_scalar_model(source.frozen, "normal"),
    }


def staged(parts: Callable, stage: str, quantization: str | None = None, **settings: Any) -> tuple[Any, Any]:
    """Returns module and data of a stage whose trained models have adapters."""
    module, data = parts(stage, **settings)
    built = nets(stage, quantization)
    if stage == "ppo":
        module.reward = {"reward": built.pop("reward")}
    module.builders = built
    return module, data


@pytest.mark.parametrize("quantization", [None, "nf4", "int8"])
@pytest.mark.parametrize("stage", STAGES)
def test_adapters_and_heads_change_and_nothing_else(
    stage: str, quantization: str | None, parts: Callable, tmp_path: Path
) -> None:
    if quantization:
        pytest.importorskip("bitsandbytes", reason="needs the extra bitsandbytes")
    module, data = staged(parts, stage, quantization)
    module.configure_model()
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    trainer(tmp_path, AdapterCheck()).fit(module, data)
    changed = {name for name, weight in module.named_parameters() if not torch.equal(weight, before[name])}
    adapters = {name for name in before if ".lora_" in name}
    heads = {
        "reward": {"net.net.score.weight"},
        "ppo": {"roles.critic.net.score.weight", "roles.critic.bias"},
    }.get(stage, set())
    assert changed == adapters | heads
    (optimizer,) = module.trainer.optimizers
    given = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert given == {id(weight) for name, weight in module.named_parameters() if name in changed}
    # An actor has two blocks of seven layers with sizes 32 and 64, and each adds rank · (in + out).
    expected = 2 * 4 * (4 * (32 + 32) + 3 * (32 + 64))
    actor = getattr(module, "roles", module).actor if stage in ("dpo", "ppo") else module.net
    heads_size = 33 - 1 if stage == "reward" else 0
    assert num_parameters(module.trainer, actor, trained=True) == expected + heads_size
    whole = sum(w.numel() for w in load_causal_lm(tiny_source()).parameters()) + heads_size
    # The bias of a reward model is counted too.
    assert num_parameters(module.trainer, actor) == whole + expected + (stage == "reward")


@pytest.mark.parametrize("quantization", [None, "nf4", "int8"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_run_is_the_uninterrupted_one_and_its_checkpoint_is_small(
    stage: str, quantization: str | None, parts: Callable, tmp_path: Path
) -> None:
    if quantization:
        pytest.importorskip("bitsandbytes", reason="needs the extra bitsandbytes")

    def run(*callbacks: Any, ckpt_path: Path | None = None, epochs: int = 2) -> tuple[list[float], nn.Module]:
        recorder = Recorder()
        module, data = staged(parts, stage, quantization)
        limits = {} if stage == "ppo" else {"limit_train_batches": 3}
        options = limits | {"max_epochs": epochs, "enable_checkpointing": bool(callbacks)}
        trainer(tmp_path, recorder, *callbacks, **options).fit(module, data, ckpt_path=ckpt_path)
        return recorder.losses, module

    whole, module = run()
    run(ModelCheckpoint(tmp_path / "kept", filename="first", save_on_train_epoch_end=True), epochs=1)
    rest, resumed = run(ckpt_path=tmp_path / "kept" / "first.ckpt")
    assert rest == whole[-len(rest) :]
    assert len(rest) == len(whole) / 2
    own, other = module.state_dict(), resumed.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(weight, other[name]) for name, weight in own.items() if isinstance(weight, torch.Tensor))
    kept = torch.load(tmp_path / "kept" / "first.ckpt", weights_only=True)["state_dict"].keys()
    assert kept
    assert all(".lora_" in name or name.endswith(("score.weight", ".bias")) for name in kept)
    assert {name for name in own if ".lora_" in name} <= kept


def test_a_checkpoint_of_another_adapter_is_an_error(parts: Callable, tmp_path: Path) -> None:
    module, data = staged(parts, "sft")
    fitted = trainer(tmp_path, limit_train_batches=1)
    fitted.fit(module, data)
    fitted.save_checkpoint(tmp_path / "last.ckpt")
    other, data = parts("sft")
    other.builders = {"net": partial(load_causal_lm, replace(SOURCE, adapter=Lora(rank=4, target_modules=["q_proj"])))}
    with pytest.raises(
        UserError, match=r"the checkpoint is of another model: their weights differ in net\.model\.layers"
    ):
        trainer(tmp_path).fit(other, data, ckpt_path=tmp_path / "last.ckpt")


def test_the_reference_becomes_the_merged_actor(parts: Callable, tmp_path: Path) -> None:
    module, data = staged(parts, "ppo", refresh_reference_every=1)
    trainer(tmp_path).fit(module, data)
    actor, reference = module.roles.actor.eval(), module.roles.reference
    assert float((actor(IDS).logits - reference(IDS).logits).detach().abs().max()) > 1e-4
    module.roles.refresh_reference()
    torch.testing.assert_close(reference(IDS).logits, actor(IDS).logits, atol=1e-6, rtol=1e-5)


class Detached(nn.Module):
    """A layer whose output is cut off from the gradient."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).detach()


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_an_adapter_without_a_gradient_stops_the_run(stage: str, parts: Callable, tmp_path: Path) -> None:
    module, data = staged(parts, stage)
    module.configure_model()
    net = module.net if stage == "sft" else module.roles.actor
    net.model.layers[1].mlp.up_proj = Detached(net.model.layers[1].mlp.up_proj)
    with pytest.raises(UserError, match=r"2 weights of adapters get no gradient.*up_proj\.layer\.lora_A"):
        trainer(tmp_path, AdapterCheck()).fit(module, data)


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_an_adapter_whose_gradient_is_0_stops_the_run_after_three_steps(
    stage: str, parts: Callable, tmp_path: Path
) -> None:
    module, data = staged(parts, stage)
    module.configure_model()
    net = module.net if stage == "sft" else module.roles.actor
    net.model.layers[0].self_attn.v_proj.lora_B["default"].weight.register_hook(torch.zeros_like)
    with pytest.raises(UserError, match=r"1 weights of adapters have not changed in 3 steps.*0\.self_attn\.v_proj"):
        trainer(tmp_path, AdapterCheck()).fit(module, data)


def without_gradients(parts: Callable, stage: str, score: Callable | None = None, **settings: Any) -> tuple[Any, Any]:
    """Returns module and data of a stage in which no second matrix of an adapter changes."""
    module, data = staged(parts, stage, **settings)
    if score is not None:
        module.reward = {"reward": TextReward(score)}
        del module.builders["critic"]
    module.configure_model()
    for name, weight in module.named_parameters():
        if "lora_B" in name:
            weight.register_hook(torch.zeros_like)
    return module, data


def test_a_stage_that_learns_nothing_is_stopped(parts: Callable, tmp_path: Path) -> None:
    for stage in ("sft", "ppo"):
        with pytest.raises(UserError, match="14 weights of adapters have not changed"):
            trainer(tmp_path, AdapterCheck()).fit(*without_gradients(parts, stage))


def equal(prompts: list[str], responses: list[str]) -> list[float]:
    return [0.0] * len(responses)


def one_differs(prompts: list[str], responses: list[str]) -> list[float]:
    return [1.0, *[0.0] * (len(responses) - 1)]


@pytest.mark.parametrize(("score", "enough"), [(equal, None), (one_differs, 2)])
def test_ppo_waits_while_there_is_nothing_to_learn(
    score: Callable, enough: int | None, parts: Callable, tmp_path: Path
) -> None:
    # A step has one row. If one score differs, two of four responses have an advantage: at least one in three steps.
    sizes = {"rollout_batch_size": 4, "minibatch_size": 1, "ppo_epochs": 1, "rollout_micro_batch_size": 4}
    credit = Credit(advantage="grpo", num_samples_per_prompt=2)

    def run(epochs: int) -> int:
        module, data = without_gradients(parts, "ppo", score, credit=credit, **sizes)
        fitted = trainer(tmp_path, AdapterCheck(), max_epochs=epochs)
        fitted.fit(module, data)
        return fitted.global_step

    assert run(1 if enough else 3) == (4 if enough else 12)
    if enough:
        with pytest.raises(UserError, match="have not changed in 8 steps"):
            run(enough)


def test_a_run_without_a_learning_rate_is_not_stopped(parts: Callable, tmp_path: Path) -> None:
    module, data = staged(parts, "sft")
    module.lr = 0.0
    fitted = trainer(tmp_path, AdapterCheck(), limit_train_batches=4)
    fitted.fit(module, data)
    assert fitted.global_step == 4


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished pipeline from the command line, with two iterations of PPO."""
    folder = tmp_path_factory.mktemp("run")
    done = command(folder, *TINY, "stage=pipeline", "experiment=none", "adapter=lora", "sft.module.lr=1e-2")
    assert done.returncode == 0, done.stderr
    return run_folder(folder)


def test_stages_export_merged_models_with_their_adapters(pipeline: Path) -> None:
    reward_base = AutoModelForSequenceClassification.from_pretrained(pipeline / "sft" / "model", num_labels=1)
    bases = {
        "sft": load_causal_lm(tiny_source()),
        "reward": reward_base,
        "ppo": AutoModelForCausalLM.from_pretrained(pipeline / "sft" / "model"),
    }
    for stage, base in bases.items():
        before = base.eval()(IDS).logits
        kind = AutoModelForSequenceClassification if stage == "reward" else AutoModelForCausalLM
        expected = kind.from_pretrained(pipeline / stage / "model").eval()(IDS).logits
        adapted = peft.PeftModel.from_pretrained(base, pipeline / stage / "adapter").eval()
        assert float((expected - before).detach().abs().max()) > 1e-6
        torch.testing.assert_close(adapted(IDS).logits, expected, atol=1e-5, rtol=1e-5)
        named = json.loads((pipeline / stage / "adapter" / "adapter_config.json").read_text())
        assert named["base_model_name_or_path"] == (None if stage == "sft" else "../../sft/model")


def test_export_makes_the_same_model_of_a_checkpoint(pipeline: Path, tmp_path: Path) -> None:
    for stage in ("sft", "ppo"):
        checkpoint = str(pipeline / stage / "checkpoints" / "last.ckpt")
        export(checkpoint, str(tmp_path / stage / "model"), None)
        for name in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
            own, other = load_file(tmp_path / stage / name), load_file(pipeline / stage / name)
            assert own.keys() == other.keys()
            assert all(torch.equal(weight, other[key]) for key, weight in own.items())
    folder = export(checkpoint, str(tmp_path / "half"), "bfloat16")
    assert {weight.dtype for weight in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.quantization=nf4"], "model.quantization=nf4: quantized weights cannot be trained: add adapter=lora"),
        (["model.quantization=nf4", "adapter=lora", "strategy=fsdp2"], "set strategy=ddp or deepspeed_zero2"),
        (["adapter=lora", "model.adapter.rank=0"], "model.adapter.rank=0: must be positive"),
        (["adapter=lora", "model.adapter.target_modules=[q]"], "has no linear layer q in its blocks"),
    ],
)
def test_what_cannot_be_is_one_message(overrides: list[str], message: str, tmp_path: Path) -> None:
    done = command(tmp_path, *keep(TINY, "sft"), "experiment=none", *overrides)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr


@pytest.mark.slow
def test_dpo_of_the_command_line_trains_an_adapter_on_a_quantized_net(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra bitsandbytes")
    overrides = [*keep([*TINY, *TINY_DPO], "dpo"), "experiment=none", "adapter=lora", "model.quantization=nf4"]
    done = command(tmp_path, *overrides, "optim=adamw_8bit")
    assert done.returncode == 0, done.stderr
    assert "bitsandbytes" not in done.stdout + done.stderr
    assert {path.name for path in (run_folder(tmp_path) / "adapter").iterdir()} >= {"adapter_config.json"}


@pytest.mark.slow
def test_quantized_stages_hand_on_adapters_since_merged_weights_would_be_rounded_back(tmp_path: Path) -> None:
    sizes = ["experiment=none", "adapter=lora", "model.quantization=nf4", "callbacks.checkpoint.save_top_k=0"]
    assert (done := command(tmp_path, *TINY, *sizes, "stage=pipeline")).returncode == 0, done.stderr
    run = run_folder(tmp_path)
    config = OmegaConf.load(run / "ppo" / "config.yaml")
    assert config.model.pretrained is None
    assert Path(config.model.adapter_dir) == run / "sft" / "adapter"
    left, started = (instantiate(OmegaConf.load(run / stage / "config.yaml").model) for stage in ("sft", "ppo"))
    trained = AutoModelForCausalLM.from_pretrained(run / "sft" / "model").eval()
    before, actor = load_causal_lm(left).eval(), load_causal_lm(started).eval()
    with torch.no_grad():
        differences = [(net(IDS).logits - trained(IDS).logits).abs().max() for net in (actor, before)]
    assert differences[0] < differences[1] / 100
