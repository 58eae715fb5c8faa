"""The commands for several processes in docs/strategies.md compose, and their sizes divide by the processes."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from lightning_rlhf.assembly.stage_checks import minibatch_settings
from lightning_rlhf.data.shares import Shares, check_sizes
from lightning_rlhf.stages import STAGES

DOCS = (Path(__file__).parents[3] / "docs" / "strategies.md").read_text(encoding="utf-8")
LINES = [
    line
    for block in re.findall(r"```bash\n(.*?)```", DOCS, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if "train.py" in line
]
MACHINES = [line for line in LINES if "num_nodes" in line]


def configured(line: str) -> DictConfig:
    """Composes a command, with the first of the values that it sweeps."""
    words = shlex.split(line, comments=True)
    overrides = [re.sub(r",.*", "", word) for word in words[words.index("train.py") + 1 :] if word != "-m"]
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return compose("train", overrides, return_hydra_config=True)


def test_there_are_lines_for_several_machines() -> None:
    assert len(MACHINES) == 5


@pytest.mark.parametrize("line", LINES)
def test_the_sizes_of_a_line_divide_by_its_processes(line: str) -> None:
    config = configured(line)
    devices = config.trainer.get("devices")
    processes = config.trainer.num_nodes * (devices if isinstance(devices, int) else 1)
    for stage in config.stages:
        block = config[STAGES[stage].block]
        sizes = minibatch_settings(block)
        assert Shares(sizes.minibatch_size, processes, block.trainer.accumulate_grad_batches).micro_batch_size >= 1
        if "rollout_batch_size" in sizes:
            check_sizes(sizes.rollout_batch_size, sizes.minibatch_size, processes)


@pytest.mark.parametrize("line", MACHINES)
def test_a_launcher_starts_as_many_processes_as_the_trainer_has(line: str) -> None:
    config = configured(line)
    launcher = config.hydra.launcher
    started = {
        "torchrun": r"--nnodes (\d+) --nproc-per-node (\d+)",
        "srun": r"--nodes (\d+) --ntasks-per-node (\d+)",
        "python": r"nodes=(\d+) hydra.launcher.tasks_per_node=(\d+)",
    }
    found = re.search(started[line.split()[0]], line)
    assert found is not None
    assert [int(number) for number in found.groups()] == [config.trainer.num_nodes, config.trainer.devices]
    # The default is an hour.
    assert "submitit" not in launcher._target_ or launcher.timeout_min > 60
