"""The code in docs/rewards.md runs as it is written."""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch.testing import assert_close

from lightning_rlhf import HTTPReward, TextReward, load_reward
from lightning_rlhf.assembly.target_checks import check_targets
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.experience import Answers
from lightning_rlhf.rewards.build import as_reward
from lightning_rlhf.rewards.loaders import LoadsRewardModel
from lightning_rlhf.rewards.rules import ExactAnswer

DOC = (Path(__file__).parents[3] / "docs" / "rewards.md").read_text()
LOADER, NET, FUNCTION, STEPS, SERVER, SUM = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", DOC, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith(("python train.py", "lightning-rlhf"))
]


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "docs/rewards.md", "exec"), names)
    return names


def configured(command: list[str]) -> DictConfig:
    """Composes the configuration of a command line."""
    name = "serve_reward" if "serve-reward" in command else "train"
    overrides = [word.replace("<run>", "run") for word in command[1:] if word not in ("train.py", "serve-reward")]
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return compose(name, [*overrides, *(["run_dir=run"] if name == "train" else [])])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_sets_what_there_is_to_what_fits(command: list[str]) -> None:
    config = configured(command)
    for key, value in (word.lstrip("+").split("=", 1) for word in command if "=" in word and "@" not in word):
        if "." in key and value != "null":
            assert str(OmegaConf.select(config, key)) == value.strip('"').replace("<run>", "run")
    if "reward" in config:
        check_targets({"reward": OmegaConf.to_container(config.reward, resolve=True)})


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) == 11


def test_the_loader_is_one_that_a_run_finds(exported: str) -> None:
    load = run(LOADER)["load_half"]
    assert isinstance(load, LoadsRewardModel)
    assert load(exported).net.head.weight.dtype == torch.float16


@torch.no_grad()
def test_a_module_of_ones_own_scores_as_it_says(
    foreign: str,
    renderer: Renderer,
    make_answers: Callable[..., Answers],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(foreign, tmp_path / "models" / "helpfulness")
    monkeypatch.chdir(tmp_path)
    answers = make_answers({"Hello": "Sorry.", "What now?": "Wait"})
    expected = as_reward(load_reward(foreign), renderer)(answers).whole
    assert_close(as_reward(run(NET)["reward"], renderer)(answers).whole, expected)


def test_the_function_scores_as_it_says(renderer: Renderer, make_answers: Callable[..., Answers]) -> None:
    reward = as_reward(TextReward(run(FUNCTION)["right_sum"]), renderer)
    rows = {"What is 2 plus 3?": "It is 5", "What is 2 plus 4?": "It is 5", "What is 1 plus 1?": "It is 2"}
    scores = reward(make_answers(rows, cut=(2,), answer=["5", "6", "2"]))
    assert scores.total.tolist() == pytest.approx([1.0, 0.0, 0.9])


def test_the_function_of_tokens_scores_as_it_says(renderer: Renderer, make_answers: Callable[..., Answers]) -> None:
    reward = as_reward(TextReward(run(STEPS)["each_step"]), renderer)
    answers = make_answers({"What is 2 plus 3?": "It is 5", "What now?": "I am sorry\nto hear that\n."})
    scores = reward(answers)
    assert scores.tokens is not None
    assert scores.total.tolist() == pytest.approx([0.0, 0.2])
    assert sorted(scores.tokens[scores.tokens != 0].tolist()) == pytest.approx([0.1, 0.1])


def test_the_command_of_the_rule_finds_the_answer_behind_the_marks() -> None:
    (command,) = (words for words in COMMANDS if "reward=exact_answer" in words)
    reward = instantiate(configured(command).reward)
    assert reward.function == ExactAnswer("solution", r"#### *(.+)")
    columns = [{"solution": "6 times 7\n#### 42"}, {"solution": "#### 1,000"}]
    assert reward(["a", "b"], ["So:\n#### 42.0", "So: 1000"], columns) == [1.0, 0.0]


def test_the_server_of_ones_own_answers(serving: Callable[..., str]) -> None:
    url = serving(run(SERVER)["app"])
    assert HTTPReward(f"{url}/score")(["a", "b"], ["I am sorry.", "No."]) == [1.0, 0.0]


def test_the_sum_adds_as_it_says(renderer: Renderer, make_answers: Callable[..., Answers]) -> None:
    scores = as_reward(run(SUM)["reward"], renderer)(make_answers({"Hello": "Sorry.", "What now?": "word " * 41}))
    assert scores.total.tolist() == [0.5, 0.0]


def test_the_table_has_every_option() -> None:
    options = {path.stem for path in (Path(__file__).parents[3] / "conf" / "reward").glob("*.yaml")}
    assert set(re.findall(r"^\| `(\w+)`", DOC.split("\n## ")[0], re.MULTILINE)) == options
