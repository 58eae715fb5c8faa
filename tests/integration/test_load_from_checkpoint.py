"""`load_from_checkpoint` needs the file alone, and runs nothing that a checkpoint of somebody else names."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_source, trainer
from torch.testing import assert_close

from lightning_rlhf import (
    DPOModule,
    ModelSource,
    PPOModule,
    Renderer,
    RewardModule,
    SFTModule,
    TextReward,
    load_causal_lm,
    load_scalar_model,
)
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.lora import Lora
from lightning_rlhf.modules.stage_module import StageModule

SOURCE = tiny_source()
# Functions that build the same models each time, since a checkpoint leaves out frozen ones.
BUILDERS = {
    "actor": partial(load_causal_lm, SOURCE),
    "reference": partial(load_causal_lm, SOURCE),
    "critic": partial(load_scalar_model, SOURCE, "zero"),
    "reward": partial(load_scalar_model, SOURCE, "zero"),
}
Saved = Callable[..., tuple[StageModule, Path]]
CLASSES: dict[str, type[StageModule]] = {
    "sft": SFTModule,
    "reward": RewardModule,
    "dpo": DPOModule,
    "ppo": PPOModule,
}


@pytest.fixture
def saved(parts: Callable[..., Any], tmp_path: Path) -> Saved:
    """A module after a step, and its checkpoint."""

    def train(stage: str, **settings: Any) -> tuple[StageModule, Path]:
        module, data = parts(stage, **settings)
        fit = trainer(tmp_path, limit_train_batches=1)
        fit.fit(module, data)
        fit.save_checkpoint(tmp_path / "last.ckpt")
        return module, tmp_path / "last.ckpt"

    return train


@pytest.mark.parametrize("stage", CLASSES)
def test_a_module_comes_back_from_the_file_alone(stage: str, saved: Saved) -> None:
    module, path = saved(stage, **(BUILDERS if stage == "ppo" else {}))
    loaded = CLASSES[stage].load_from_checkpoint(path)
    assert type(loaded) is type(module)
    assert_close(loaded.state_dict(), module.cpu().state_dict(), rtol=0, atol=0)
    assert loaded.renderer.prompt([{"role": "user", "content": "Hello"}]) == module.renderer.prompt(
        [{"role": "user", "content": "Hello"}]
    )
    assert loaded.renderer.stop_ids == module.renderer.stop_ids
    for name in ("lr", "optim", "sampling", "credit", "loss", "kl_coef", "objective", "beta"):
        # Two partials are never equal, though they are alike.
        assert str(getattr(loaded, name, None)) == str(getattr(module, name, None))


def test_adapters_come_back_beside_the_weights_that_the_checkpoint_leaves_out(
    saved: Saved, source: ModelSource, renderer: Renderer
) -> None:
    adapted = replace(source, adapter=Lora(rank=2))
    module, path = saved("sft")
    module = SFTModule(partial(load_causal_lm, adapted), renderer, lr=1e-3)
    module.configure_model()
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    loaded = SFTModule.load_from_checkpoint(path)
    assert_close(loaded.state_dict(), module.state_dict(), rtol=0, atol=0)


def test_what_a_checkpoint_cannot_describe_is_asked_for(saved: Saved) -> None:
    own = TextReward(lambda prompts, responses: [0.0] * len(responses))
    _, path = saved("ppo", **BUILDERS | {"reward": own, "gold": own})
    with pytest.raises(UserError) as found:
        PPOModule.load_from_checkpoint(path)
    call = f"PPOModule.load_from_checkpoint('{path}'): pass "
    assert sorted(str(found.value).splitlines()) == [
        f"{call}{name}=…, because a checkpoint cannot describe TextReward" for name in ("gold", "reward")
    ]
    loaded = PPOModule.load_from_checkpoint(path, reward=own, gold=None, kl_coef=0.5)
    assert loaded.reward["reward"] is own


def test_a_live_model_is_given_again(source: ModelSource, renderer: Renderer, tmp_path: Path) -> None:
    module = RewardModule(load_scalar_model(source, "normal"), renderer)
    module.configure_model()
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="pass net=…, because a checkpoint cannot describe ScalarModel"):
        RewardModule.load_from_checkpoint(tmp_path / "x.ckpt")
    loaded = RewardModule.load_from_checkpoint(tmp_path / "x.ckpt", net=load_scalar_model(source, "zero"))
    assert_close(loaded.state_dict(), module.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("net", "_name_"), "os.system", "the checkpoint names os.system, which is not of this package"),
        (("net", "_call_", "args", 0, "trust_remote_code"), True, "brings its own Python code"),
        (("net", "_call_", "args", 0, "attn_implementation"), "evil/kernel", "would be loaded from the hub"),
        (("renderer", "size"), 7, "its tokenizer had 7 tokens, and the one at"),
        (("renderer", "tokenizer"), "/no/such/folder", "its tokenizer cannot be loaded from '/no/such/folder'"),
    ],
)
def test_what_would_run_code_is_refused(
    place: tuple[Any, ...], value: object, message: str, saved: Saved, tmp_path: Path
) -> None:
    _, path = saved("sft")
    checkpoint = torch.load(path, weights_only=True)
    node = checkpoint["arguments"]
    for key in place[:-1]:
        node = node[key]
    assert place[-1] in node
    node[place[-1]] = value
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match=message):
        SFTModule.load_from_checkpoint(path)


def test_an_estimator_of_somebody_elses_module_is_not_imported(saved: Saved) -> None:
    _, path = saved("ppo", **BUILDERS)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["arguments"]["credit"] = {"_name_": "Credit", "advantage": "antigravity:gae"}
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match="pass credit=…, because advantage=antigravity:gae is a module of your own"):
        PPOModule.load_from_checkpoint(path)
    assert "antigravity" not in sys.modules


def test_other_files_are_refused_by_name(saved: Saved, tmp_path: Path) -> None:
    _, path = saved("sft")
    with pytest.raises(UserError, match=r"this is no checkpoint of a DPOModule"):
        DPOModule.load_from_checkpoint(path)
    with pytest.raises(UserError, match=r"divided among files: write its model with `lightning-rlhf export"):
        SFTModule.load_from_checkpoint(tmp_path)
