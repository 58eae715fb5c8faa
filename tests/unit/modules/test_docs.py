"""The code in docs/algorithms.md runs as it is written."""

import re
import shlex
import sys
from collections.abc import Iterator
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from torch.testing import assert_close

from lightning_rlhf.modules.ppo_loss import PPOLoss
from lightning_rlhf.ops.advantages import ESTIMATORS, Trajectories
from lightning_rlhf.ops.losses import POLICY_LOSSES, PolicyBatch
from lightning_rlhf.rollout.credit import Credit

DOC = (Path(__file__).parents[3] / "docs" / "algorithms.md").read_text()
CODE = re.findall(r"```python\n# (\w+)\.py, then: (.*?)\n(.*?)```", DOC, re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)[2:]
    for block in re.findall(r"```bash\n(.*?)```", DOC, re.DOTALL)
    for line in block.splitlines()
    # Sweeps are left out, since Hydra splits them itself.
    if line.startswith("python train.py") and " -m " not in line
]


@pytest.fixture
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Imports the modules of the examples, and restores the registers afterwards."""
    for module, _, code in CODE:
        (tmp_path / f"{module}.py").write_text(code)
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(ESTIMATORS), dict(POLICY_LOSSES)
    yield
    for table, entries in zip((ESTIMATORS, POLICY_LOSSES), before, strict=True):
        table.clear()
        table.update(entries)


def configured(*overrides: str) -> Any:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return compose("train", ["run_dir=run", "stage=ppo", *overrides]).ppo.module


@pytest.mark.usefixtures("_modules")
def test_the_estimator_and_its_setting_are_taken_as_they_are_written() -> None:
    (overrides,) = (line.split() for module, line, _ in CODE if module == "my_estimators")
    credit = instantiate(configured(*overrides, "ppo.module.credit.num_samples_per_prompt=3").credit)
    assert isinstance(credit, Credit)
    rewards, zeros = torch.tensor([[1.0], [2.0], [4.0]]), torch.zeros(3, 1)
    trajectories = Trajectories(rewards, rewards > 0, rewards[:, 0], zeros, group_size=3)
    # The upper quartile of 2 and 4 is half-way between them.
    assert_close(credit.estimate(trajectories).advantages, torch.tensor([[-2.0], [-1.0], [1.0]]))


@pytest.mark.usefixtures("_modules")
def test_the_policy_loss_and_its_setting_are_taken_as_they_are_written() -> None:
    (overrides,) = (line.split() for module, line, _ in CODE if module == "my_losses")
    loss = instantiate(configured(*overrides).loss)
    assert isinstance(loss, PPOLoss)
    logprobs = torch.tensor([[log(1.5)]], requires_grad=True)
    given = loss.policy_loss(PolicyBatch(logprobs, torch.zeros(1, 1), torch.tensor([[3.0]]), torch.ones(1, 1) > 0))
    # -3 · sigmoid(2 · (1.5 - 1)) · 4 / 2.
    assert_close(given.losses, torch.tensor([[-6 / (1 + exp(-1))]]))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_builds_credit_and_loss(command: list[str]) -> None:
    module = configured(*command)
    assert isinstance(instantiate(module.credit), Credit)
    assert isinstance(instantiate(module.loss), PPOLoss)


def test_there_are_examples_to_run() -> None:
    assert (len(CODE), len(COMMANDS)) == (2, 3)
