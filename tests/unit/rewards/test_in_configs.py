"""Reward sources in a configuration, and the reward models among them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from lightning_rlhf.assembly.critic_start import reward_sources
from lightning_rlhf.assembly.handoff import handed_on
from lightning_rlhf.assembly.reward_models import reward_models
from lightning_rlhf.assembly.stage import prepare
from lightning_rlhf.assembly.user_message import user_message
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Answers
from lightning_rlhf.rewards import AdapterReward, LoadedReward, as_reward, load_reward, loads_reward_model

GOLD = "reward.parts.function.function=lightning_rlhf.demo.gold:gold"
HTTP = ["+reward@reward.parts.http=http", "reward.parts.http.function.url=http://127.0.0.1:1/score"]


def configured(*overrides: str) -> DictConfig:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return compose("train", ["run_dir=run/ppo", "model=tiny", "stage=ppo", *overrides])


@torch.no_grad()
def test_a_weighted_sum_of_the_configuration_gives_the_sum_of_its_parts(
    exported: str, renderer: Renderer, make_answers: Callable[..., Answers]
) -> None:
    config = configured(
        "reward=weighted",
        f"reward.parts.model.path={exported}",
        "reward@reward.parts.function=length",
        "reward.parts.function.function.maximum=3",
        "reward.weights.model=0.5",
        "+reward@reward.parts.polite=pattern",
        "reward.parts.polite.function.pattern=sorry",
        "+reward.weights.polite=-2.0",
    )
    reward = as_reward(instantiate(config.reward), renderer)
    scores = reward(make_answers({"My door is stuck.": "Go away", "My kettle leaks.": "I am so sorry."}))
    assert scores.parts["function"].tolist() == [1.0, 0.0]
    assert scores.parts["polite"].tolist() == [0.0, 1.0]
    expected = 0.5 * scores.parts["model"] + scores.parts["function"] - 2 * scores.parts["polite"]
    torch.testing.assert_close(scores.total, expected)


def test_a_part_without_a_weight_is_one_message() -> None:
    config = configured("reward=weighted", GOLD, *HTTP, "reward.parts.model.path=models/reward")
    with pytest.raises(InstantiationException) as error:
        instantiate(config.reward)
    assert user_message(error.value) == "weights.http is not set: give the weight of parts.http"


def test_reward_models_are_found_wherever_they_stand() -> None:
    two = ["reward=weighted", GOLD, *HTTP, "+reward@reward.parts.second=model", "reward.parts.second.path=mine"]
    assert set(reward_models(configured(*two))) == {"reward.parts.model", "reward.parts.second"}
    assert set(reward_models(configured())) == {"reward"}
    assert reward_models(configured("reward=function")) == {}


def test_the_stage_names_the_part_that_lacks_a_reward_model(tmp_path: Path, renderer: Renderer) -> None:
    with pytest.raises(UserError, match=r"^reward.parts.model.path is not set: give the folder"):
        prepare(configured("reward=weighted", GOLD), "ppo", tmp_path, renderer)


def test_a_reward_model_that_is_not_there_is_found_missing_before_anything_runs(renderer: Renderer) -> None:
    with pytest.raises(UserError, match=r"^reward.parts.model.path=./nowhere: no such folder"):
        reward_sources(configured("reward=weighted", GOLD, "reward.parts.model.path=./nowhere"), {})


def test_a_wrong_setting_of_a_rule_is_named_before_anything_runs(tmp_path: Path, renderer: Renderer) -> None:
    config = configured("reward=length", "reward.function.unit=letters")
    with pytest.raises(UserError, match=r"^reward.function.unit=letters: expected one of characters, words"):
        prepare(config, "ppo", tmp_path, renderer)


def test_no_critic_starts_from_a_reward_model_with_another_tokenizer(
    exported: str, foreign: str, renderer: Renderer, tmp_path: Path
) -> None:
    config = configured(f"reward.path={foreign}")
    with pytest.raises(UserError, match=rf"^reward.path={foreign}: its tokenizer .* set ppo.critic_init=policy$"):
        prepare(config, "ppo", tmp_path, renderer)
    assert prepare(configured(f"reward.path={exported}"), "ppo", tmp_path, renderer).module


def test_reward_models_that_the_run_is_still_to_train_are_not_looked_for(renderer: Renderer, tmp_path: Path) -> None:
    models = {"reward": Path("run/reward/model")}
    (source,) = reward_sources(handed_on(configured("stage=pipeline"), models), models)
    assert source.pretrained == "run/reward/model"
    assert prepare(configured("stage=pipeline"), "ppo", tmp_path, renderer, models).module


@loads_reward_model()
def load_half(path: str, dtype: str = "float16", template: str | None = None) -> LoadedReward:
    """A user's own loader."""
    return load_reward(path, dtype, template)


class OwnAdapterReward(AdapterReward):
    """A user's own class."""


@pytest.mark.parametrize("loader", [load_half, OwnAdapterReward])
def test_a_loader_of_ones_own_is_found_and_given_the_model_that_is_trained(loader: Any) -> None:
    config = configured("stage=pipeline", f"reward._target_={__name__}.{loader.__name__}")
    assert set(reward_models(config)) == {"reward"}
    assert handed_on(config, {"reward": Path("models/reward")}).reward.path == "models/reward"


@torch.no_grad()
def test_a_loader_of_ones_own_gives_the_score_and_the_start_of_the_critic(
    exported: str, renderer: Renderer, tmp_path: Path
) -> None:
    config = configured(f"reward._target_={__name__}.load_half", "~reward.dtype", f"reward.path={exported}")
    module: Any = prepare(config, "ppo", tmp_path, renderer).module
    weights = [module.reward["reward"]().net.net, module.builders["critic"]().net, load_reward(exported).net.net]
    half, critic, own = (net.get_input_embeddings().weight for net in weights)
    assert half.dtype == torch.float16
    assert torch.equal(half, own.half())
    assert torch.equal(critic, own)
