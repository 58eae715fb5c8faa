"""The configuration decides what a critic starts from."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import DictConfig

from lightning_rlhf.assembly.stage import prepare
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.export import export_model
from lightning_rlhf.models.scalar import ScalarModel, load_reward_model, load_scalar_model
from lightning_rlhf.models.source import ModelSource

FUNCTION = ["reward=function", "reward.function=lightning_rlhf.demo.gold:gold"]


def configured(*overrides: str) -> DictConfig:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return compose("train", ["run_dir=run/ppo", "model=tiny", "stage=ppo", *overrides])


@pytest.fixture(scope="module")
def source() -> ModelSource:
    return instantiate(configured().model)


@pytest.fixture(scope="module")
def reward_path(source: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("reward") / "model"
    net = load_scalar_model(ModelSource(config=source.config, tokenizer=source.config_tokenizer, seed=99), "normal")
    return str(export_model(net, Renderer(source.load_tokenizer()), folder, {}))


def critic(source: ModelSource, folder: Path, *overrides: str) -> ScalarModel:
    stage = prepare(configured(*overrides), "ppo", folder, Renderer(source.load_tokenizer()))
    return stage.module.builders["critic"]()


def embeddings(net: torch.nn.Module) -> torch.Tensor:
    return net.get_input_embeddings().weight  # type: ignore[operator, union-attr]


@pytest.mark.parametrize(
    ("overrides", "start"),
    [([], "reward"), (["ppo.critic_init=reward"], "reward"), (["ppo.critic_init=policy"], "policy")],
)
def test_the_backbone_is_that_of_reward_model_or_policy(
    overrides: list[str], start: str, source: ModelSource, reward_path: str, tmp_path: Path
) -> None:
    net = critic(source, tmp_path, f"reward.path={reward_path}", *overrides).net
    starts = {"reward": load_reward_model(reward_path).net, "policy": load_causal_lm(source)}
    assert {name: torch.equal(embeddings(net), embeddings(other)) for name, other in starts.items()} == {
        name: name == start for name in starts
    }


def test_it_is_trained_in_the_way_of_the_actor(source: ModelSource, reward_path: str, tmp_path: Path) -> None:
    net = critic(source, tmp_path, f"reward.path={reward_path}", "model.gradient_checkpointing=true").net
    assert net.is_gradient_checkpointing


def test_without_a_reward_model_it_starts_from_the_policy(source: ModelSource, tmp_path: Path) -> None:
    net = critic(source, tmp_path, *FUNCTION).net
    assert torch.equal(embeddings(net), embeddings(load_causal_lm(source)))


def test_the_head_is_zero_unless_it_is_to_be_that_of_the_reward_model(
    source: ModelSource, reward_path: str, tmp_path: Path
) -> None:
    path = f"reward.path={reward_path}"
    assert not critic(source, tmp_path, path).head.weight.any()
    trained = critic(source, tmp_path, path, "ppo.critic_head=trained").head.weight
    assert torch.equal(trained, load_reward_model(reward_path).head.weight)
    normal = critic(source, tmp_path, path, "ppo.critic_head=normal").head.weight
    assert normal.any()
    assert not torch.equal(normal, trained)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["ppo.critic_init=reward"], "ppo.critic_init=reward, but the score comes from no reward model"),
        (["ppo.critic_head=trained"], "ppo.critic_head=trained, but only a reward model has a trained head"),
        (["ppo.critic_init=actor"], "ppo.critic_init=actor: must be reward, policy, or null"),
        (["ppo.critic_head=one"], "ppo.critic_head=one: must be zero, normal, or trained"),
    ],
)
def test_what_cannot_be_is_named(overrides: list[str], message: str, source: ModelSource, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        critic(source, tmp_path, *FUNCTION, *overrides)
