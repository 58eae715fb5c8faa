"""`load_from_checkpoint` needs the file alone, and runs nothing that a checkpoint of somebody else names."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from support import tiny_source, trainer
from torch.testing import assert_close

from lightning_rlhf import (
    DPOModule,
    HTTPReward,
    ModelSource,
    PaddedEngine,
    PPOModule,
    Renderer,
    RewardModule,
    RewardNet,
    Sampling,
    SFTModule,
    TextReward,
    WeightedSum,
    load_causal_lm,
    load_scalar_model,
)
from lightning_rlhf.data.messages import Message
from lightning_rlhf.demo.gold import gold
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.lora import Lora
from lightning_rlhf.modules.arguments import save_arguments
from lightning_rlhf.modules.stage_module import StageModule
from lightning_rlhf.rewards.rules import Length, Pattern

SOURCE = tiny_source()
# Functions that build the same models each time, since a checkpoint leaves out frozen ones.
BUILDERS = {
    "actor": partial(load_causal_lm, SOURCE),
    "reference": partial(load_causal_lm, SOURCE),
    "critic": partial(load_scalar_model, SOURCE, head="zero"),
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


def scatter(module: StageModule) -> None:
    """Gives all adapters weights of their own; a new adapter changes nothing, since half of its weights are 0."""
    for name, weight in module.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight)


def written(module: StageModule, folder: Path) -> Path:
    """Writes the checkpoint of a module that was not trained."""
    module.configure_model()
    checkpoint = {"state_dict": module.state_dict(), "pytorch-lightning_version": pl.__version__}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, folder / "untrained.ckpt")
    return folder / "untrained.ckpt"


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


def test_a_renderer_comes_back_with_its_template_and_its_stop_tokens(source: ModelSource, tmp_path: Path) -> None:
    tokenizer = source.load_tokenizer()
    pad = tokenizer.pad_token_id
    renderer = Renderer(tokenizer, "plain", stop_ids=[pad])
    module = SFTModule(partial(load_causal_lm, source), renderer)
    loaded = SFTModule.load_from_checkpoint(written(module, tmp_path)).renderer
    assert loaded.stop_ids == renderer.stop_ids
    assert pad in loaded.stop_ids
    asked = [Message(role="user", content="Hello")]
    assert loaded.prompt(asked) == renderer.prompt(asked)
    assert loaded.prompt(asked) != Renderer(source.load_tokenizer()).prompt(asked)


def test_adapters_come_back_beside_the_weights_that_the_checkpoint_leaves_out(
    source: ModelSource, renderer: Renderer, tmp_path: Path
) -> None:
    adapted = replace(source, adapter=Lora(rank=2))
    module = SFTModule(partial(load_causal_lm, adapted), renderer, lr=1e-3)
    path = written(module, tmp_path)
    assert not any("base_layer" in name for name in torch.load(path, weights_only=True)["state_dict"])
    loaded = SFTModule.load_from_checkpoint(path)
    assert_close(loaded.state_dict(), module.state_dict(), rtol=0, atol=0)
    # A device without memory, which every machine has.
    assert SFTModule.load_from_checkpoint(path, map_location="meta").net.device.type == "meta"


@pytest.mark.parametrize("method", ["nf4", "int8"])
def test_adapters_of_quantized_weights_come_back(
    method: str, source: ModelSource, renderer: Renderer, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra bitsandbytes")
    module = SFTModule(partial(load_causal_lm, replace(source, adapter=Lora(rank=2), quantization=method)), renderer)
    module.configure_model()
    scatter(module)
    loaded = SFTModule.load_from_checkpoint(written(module, tmp_path))
    assert loaded.net.is_quantized
    ids = torch.arange(10, 20)[None]
    assert_close(loaded.net.eval()(ids).logits, module.net.eval()(ids).logits, rtol=0, atol=0)


class OwnEngine(PaddedEngine):
    """An engine of the user."""


def test_what_a_checkpoint_cannot_describe_is_asked_for(saved: Saved) -> None:
    own = TextReward(lambda prompts, responses: [0.0] * len(responses))
    _, path = saved("ppo", **BUILDERS | {"reward": own, "gold": own}, engine=OwnEngine)
    with pytest.raises(UserError) as found:
        PPOModule.load_from_checkpoint(path)
    call = f"PPOModule.load_from_checkpoint('{path}'): pass "
    assert sorted(str(found.value).splitlines()) == [
        f"{call}{name}=…, because a checkpoint cannot describe the {what}"
        for name, what in (
            ("engine", "class OwnEngine"),
            ("gold", "function <lambda>"),
            ("reward", "function <lambda>"),
        )
    ]
    loaded = PPOModule.load_from_checkpoint(path, reward=own, gold=None, engine=OwnEngine, kl_coef=0.5)
    assert loaded.reward["reward"] is own


@pytest.mark.parametrize(
    "reward", [TextReward(HTTPReward("http://host/score?key=secret")), RewardNet(torch.nn.Identity)]
)
def test_a_server_and_a_net_of_your_own_are_given_again(
    reward: Any, source: ModelSource, renderer: Renderer, tmp_path: Path
) -> None:
    module = PPOModule(**BUILDERS | {"reward": reward}, renderer=renderer, sampling=Sampling(max_new_tokens=4))
    path = tmp_path / "untrained.ckpt"
    checkpoint: dict[str, Any] = {"state_dict": {}, "pytorch-lightning_version": pl.__version__}
    save_arguments(module, checkpoint)
    torch.save(checkpoint, path)
    assert "secret" not in str(checkpoint)
    with pytest.raises(UserError, match="pass reward=…, because a checkpoint cannot describe (HTTPReward|RewardNet)"):
        PPOModule.load_from_checkpoint(path)


def test_rewards_of_this_package_come_back(saved: Saved) -> None:
    parts = {"gold": TextReward("lightning_rlhf.demo.gold:gold"), "short": TextReward(Length(maximum=20))}
    settings = BUILDERS | {"reward": WeightedSum(parts, {"gold": 1.0, "short": -0.5})}
    _, path = saved("ppo", **settings, gold=TextReward(Pattern(pattern="a+")), engine=PaddedEngine)
    loaded = PPOModule.load_from_checkpoint(path)
    reward: Any = loaded.reward["reward"]
    assert reward.weights == {"gold": 1.0, "short": -0.5}
    assert {name: part.function for name, part in reward.parts.items()} == {"gold": gold, "short": Length(maximum=20)}
    assert loaded.answers.gold is not None
    assert loaded.answers.gold.function == Pattern(pattern="a+")
    assert loaded.engine.build is PaddedEngine


def test_a_live_model_is_given_again(source: ModelSource, renderer: Renderer, tmp_path: Path) -> None:
    module = RewardModule(load_scalar_model(source, "normal"), renderer)
    path = written(module, tmp_path)
    with pytest.raises(UserError, match="pass net=…, because a checkpoint cannot describe ScalarModel"):
        RewardModule.load_from_checkpoint(path)
    loaded = RewardModule.load_from_checkpoint(path, net=load_scalar_model(source, "zero"))
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


def test_settings_of_another_version_are_named(saved: Saved) -> None:
    _, path = saved("ppo", **BUILDERS)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["arguments"]["credit"] = {"_name_": "Credit", "horizon": 3}
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match=r"pass credit=…, because its Credit has the settings horizon, which this"):
        PPOModule.load_from_checkpoint(path)


@pytest.mark.parametrize("builder", [False, True], ids=["built at once", "built later"])
@pytest.mark.parametrize(
    ("name", "what", "setting", "value"),
    [
        ("credit", "Credit", "advantage", "antigravity:gae"),
        ("loss", "PPOLoss", "policy", "antigravity:clipped"),
        ("gold", "TextReward", "function", "antigravity:score"),
        ("reward", "TextReward", "function", "antigravity:score"),
    ],
)
def test_a_function_of_somebody_elses_module_is_not_imported(
    name: str, what: str, setting: str, value: str, builder: bool, saved: Saved
) -> None:
    _, path = saved("ppo", **BUILDERS)
    checkpoint = torch.load(path, weights_only=True)
    given = {setting: value}
    node = {"_name_": what, "_call_": {"args": [], "kwargs": given}} if builder else {"_name_": what, **given}
    checkpoint["arguments"][name] = node
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match=rf"pass {name}=…, because {setting}={value} is a module of your own"):
        PPOModule.load_from_checkpoint(path)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_name_": "TextReward", "_call_": {"args": ["antigravity:score"], "kwargs": {}}}, "is a module of your own"),
        (
            {"_name_": "ModelSource", "_call_": {"args": [], "kwargs": {"trust_remote_code": True}}},
            "its own Python code",
        ),
        (
            {"_name_": "load_causal_lm", "_call_": {"args": [], "kwargs": {"shards": 3}}},
            "load_causal_lm of this version",
        ),
        ({"_name_": "ModelSource", "config": {"model_type": "llama", "attn_implementation": "evil/kernel"}}, "the hub"),
        ({"_name_": "ModelSource", "config": {"text": {"_attn_implementation": "evil/kernel"}}}, "the hub"),
    ],
    ids=["function by place", "code of the hub", "another version", "attention in a config", "part of a config"],
)
def test_a_builder_of_somebody_else_runs_no_code(node: dict[str, object], message: str, saved: Saved) -> None:
    _, path = saved("sft")
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["arguments"]["net"] = node
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match=message):
        SFTModule.load_from_checkpoint(path)
    assert "antigravity" not in sys.modules


def test_other_files_are_refused_by_name(saved: Saved, tmp_path: Path) -> None:
    _, path = saved("sft")
    with pytest.raises(UserError, match=r"this is no checkpoint of a DPOModule"):
        DPOModule.load_from_checkpoint(path)
    with pytest.raises(UserError, match="not a checkpoint that a strategy of this package has written") as found:
        SFTModule.load_from_checkpoint(tmp_path)
    assert str(found.value).startswith(f"SFTModule.load_from_checkpoint('{tmp_path}'): {tmp_path}: ")
    with pytest.raises(UserError, match=r"load_from_checkpoint\('nowhere.ckpt'\): there is no such file or folder \(/"):
        SFTModule.load_from_checkpoint("nowhere.ckpt")
    path.write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="not read, since it is damaged or could run code"):
        SFTModule.load_from_checkpoint(path)
