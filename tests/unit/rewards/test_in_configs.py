"""Reward sources as a configuration names them, and the reward models among them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from lightning_rlhf.assembly.reward_models import check_critic, fill_in, reward_models, reward_sources
from lightning_rlhf.assembly.stage import prepare
from lightning_rlhf.assembly.user_message import user_message
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Answers
from lightning_rlhf.rewards.build import as_reward

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
    config = configured("reward=weighted", GOLD, *HTTP)
    fill_in(config, "models/reward")
    with pytest.raises(InstantiationException) as error:
        instantiate(config.reward)
    assert user_message(error.value) == "weights.http is not set: give the weight of parts.http"


def test_reward_models_are_found_wherever_they_stand() -> None:
    two = ["reward=weighted", GOLD, *HTTP, "+reward@reward.parts.second=model", "reward.parts.second.path=mine"]
    assert set(reward_models(configured(*two))) == {"reward.parts.model", "reward.parts.second"}
    assert set(reward_models(configured())) == {"reward"}
    assert reward_models(configured("reward=function")) == {}


def test_a_trained_reward_model_goes_where_none_is_named() -> None:
    config = configured("reward=weighted", "+reward@reward.parts.second=model", "reward.parts.second.path=mine")
    fill_in(config, "models/reward")
    assert config.reward.parts.model.path == "models/reward"
    assert config.reward.parts.second.path == "mine"


def test_the_stage_names_the_part_that_lacks_a_reward_model(tmp_path: Path, renderer: Renderer) -> None:
    with pytest.raises(UserError, match=r"^reward.parts.model.path is not set: give the folder"):
        prepare(configured("reward=weighted", GOLD), "ppo", tmp_path, renderer)


def test_a_reward_model_that_is_not_there_is_found_missing_before_anything_runs(renderer: Renderer) -> None:
    with pytest.raises(UserError, match=r"^reward.parts.model.path=./nowhere: no such folder"):
        reward_sources(configured("reward=weighted", GOLD, "reward.parts.model.path=./nowhere"))


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
    (own,) = reward_sources(configured(f"reward.path={exported}"))
    check_critic(own, config, renderer)


def test_reward_models_that_the_run_is_still_to_train_are_not_looked_for(renderer: Renderer) -> None:
    config: Any = configured("stage=pipeline")
    fill_in(config, "run/reward/model")
    (source,) = reward_sources(config)
    assert source.pretrained == "run/reward/model"
    check_critic(source, config, renderer)
