"""Runs on several machines, and runs in which a process is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from compare import WORKER, differences, finish, launch, started
from support import TINY, environ, free_port, keep
from worker import STAGES


@pytest.mark.slow
def test_two_nodes_give_the_numbers_of_one(single: Path, tmp_path: Path) -> None:
    """Starts two torchrun agents, each for a machine with one device, which meet at an address."""
    agent = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d"]
    meeting = [f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=run"]
    worker = [str(WORKER), str(tmp_path), "ddp", "trainer.devices=1", "trainer.num_nodes=2", f"start={single}"]
    finish([started([*agent, *meeting, *worker], PYTHONPATH=str(WORKER.parent)) for _ in range(2)])
    for stage in STAGES:
        assert max(differences(tmp_path, single, stage).values()) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulation_gives_the_same_numbers(parts: int, single: Path, tmp_path: Path) -> None:
    launch(tmp_path, "single", f"STAGE.trainer.accumulate_grad_batches={parts}", f"start={single}")
    for stage in STAGES:
        assert max(differences(tmp_path, single, stage).values()) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "stage", "setting"),
    [
        ("deepspeed_zero2", "sft", "sft.data.max_tokens_per_micro_batch=130"),
        # The processes score 12 responses each, in as many parts as the one with the longer responses needs.
        ("deepspeed_zero3", "ppo", "ppo.module.max_tokens_per_micro_batch=100"),
    ],
)
def test_two_processes_with_a_token_budget_give_the_numbers_of_one(
    strategy: str, stage: str, setting: str, single: Path, tmp_path: Path
) -> None:
    parts = "STAGE.trainer.accumulate_grad_batches=2"
    launch(tmp_path, strategy, "trainer.devices=2", parts, f"stages={stage}", setting, f"start={single}")
    assert max(differences(tmp_path, single, stage).values()) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "victim"),
    [("ddp", 0), ("ddp", 1), ("fsdp2", 0), ("deepspeed_zero3", 1), ("colossalai_zero2", 0)],
)
def test_a_rank_that_is_killed_ends_the_other_with_a_message(strategy: str, victim: int, tmp_path: Path) -> None:
    run = [f"strategy={strategy}", "trainer.devices=2", "sft.trainer.max_epochs=1000"]
    settings = ["model=tiny", "experiment=none", *run]
    log = tmp_path / "log"
    with log.open("w") as output:
        first = subprocess.Popen(
            [sys.executable, "-m", "lightning_rlhf.cli", "train", *settings, *keep([], "sft")],
            cwd=tmp_path,
            env=environ(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    ranks = [first.pid, _child(first.pid, log)]
    os.kill(ranks[victim], signal.SIGKILL)
    start = time.monotonic()
    while any(map(_runs, ranks)) and time.monotonic() - start < 60:
        first.poll()
        time.sleep(0.5)
    assert not any(map(_runs, ranks)), log.read_text()
    # Either an exchange with the dead rank fails, or the rank that watches it notices, whichever comes first.
    said = ["lost the connection to another process", "has ended, so it ends too"]
    said += ["terminated with code"] * (victim == 1)
    assert any(words in log.read_text() for words in said), log.read_text()
    assert "Traceback" not in log.read_text()


# Rank 1 is killed while the actor samples, as the system would kill it. Since the actor is gathered for each token, the
# ranks wait for each other.
DIES_IN_A_ROLLOUT = """
import os, signal, sys
from lightning_rlhf.cli import train
from lightning_rlhf.rollout.engines import rows

draw, drawn = rows.draw, 0

def dying(*arguments, **settings):
    global drawn
    drawn += arguments[2].temperature > 0
    if os.environ.get("LOCAL_RANK") == "1" and drawn == 4:
        print("rank 1 dies in a rollout", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(*arguments, **settings)

rows.draw = dying
train.main()
"""


@pytest.mark.slow
def test_a_rank_that_is_killed_in_a_rollout_ends_the_other_with_a_message(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text(DIES_IN_A_ROLLOUT)
    settings = [*keep(TINY, "ppo"), "reward=gold", "strategy=fsdp2", "trainer.devices=2", f"hydra.run.dir={tmp_path}"]
    settings += ["trainer.strategy.gather_for_generation=false", "rollout.evaluation.temperature=0"]
    shared = {"MASTER_PORT": str(free_port())}
    ranks = [started([str(tmp_path / "dies.py"), *settings], LOCAL_RANK=str(r), **shared) for r in range(2)]
    with ThreadPoolExecutor() as pool:
        said = list(pool.map(lambda rank: rank.communicate(timeout=240)[0], ranks))
    assert ranks[1].returncode == -signal.SIGKILL, said[1]
    assert "rank 1 dies in a rollout" in said[1]
    assert ranks[0].returncode == 1, said[0]
    assert "ends because it lost the connection to another process" in said[0]
    assert "Traceback" not in said[0]


# Runs `train` with changes that a test makes before.
PROGRAM = """
import os, sys
from lightning_rlhf.cli import train
sys.path.insert(0, os.path.dirname(__file__))
{changes}
train.main()
"""
ONLY_ON_RANK_1 = """
import os

def score(prompts, responses):
    if os.environ["LOCAL_RANK"] == "1":
        raise ValueError("only here")
    return [1.0] * len(responses)
"""
NAN_ON_RANK_1 = """
from lightning_rlhf.modules import SFTModule
step = SFTModule.training_step
def spoilt(self, batch, number):
    loss = step(self, batch, number)
    return loss * float("nan") if number == 0 and os.environ["LOCAL_RANK"] == "1" else loss
SFTModule.training_step = spoilt
"""


def _ranks(folder: Path, changes: str, *settings: str) -> tuple[list[int | None], list[str]]:
    """Runs two ranks, and returns their exit codes and what they said."""
    (folder / "program.py").write_text(PROGRAM.format(changes=changes))
    run = [*settings, "strategy=ddp", "trainer.devices=2", f"hydra.run.dir={folder}/run"]
    shared = {"MASTER_PORT": str(free_port())}
    ranks = [started([str(folder / "program.py"), *run], LOCAL_RANK=str(r), **shared) for r in range(2)]
    with ThreadPoolExecutor() as pool:
        said = list(pool.map(lambda rank: rank.communicate(timeout=120)[0], ranks))
    return [rank.returncode for rank in ranks], said


@pytest.mark.slow
def test_a_reward_that_fails_on_one_rank_ends_the_other_too(tmp_path: Path) -> None:
    (tmp_path / "own_rewards.py").write_text(ONLY_ON_RANK_1)
    codes, said = _ranks(tmp_path, "", *keep(TINY, "ppo"), "reward=function", "reward.function=own_rewards:score")
    assert codes == [1, 2], said
    assert "own_rewards:score failed for " in said[1]
    assert "ValueError: only here" in said[1]
    assert "ends because it lost the connection to another process" in said[0]
    assert "Traceback" not in said[0] + said[1]


@pytest.mark.slow
def test_ranks_skip_a_step_together_if_the_loss_of_one_is_not_finite(tmp_path: Path) -> None:
    codes, said = _ranks(tmp_path, NAN_ON_RANK_1, *keep(TINY, "sft"))
    assert codes == [0, 0], said
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["status"], result["skipped_steps"]) == ("finished", 1)
    assert "step 1 is skipped" in said[0]
    steps = [torch.load(tmp_path / "run" / "not_finite" / f"rank_{r}.pt", weights_only=True)["step"] for r in range(2)]
    assert steps == [1, 1]


@pytest.mark.slow
def test_two_processes_drop_the_same_responses_as_one(single: Path, tmp_path: Path) -> None:
    settings = ["reward=function", "reward.function=flaky_reward:score", "reward.on_error=drop", "stages=ppo"]
    for name, given in {"one": [], "two": ["trainer.devices=2"]}.items():
        launch(tmp_path / name, "ddp" if given else "single", *settings, *given, f"start={single}")
    assert max(differences(tmp_path / "two", tmp_path / "one", "ppo").values()) < 1e-5
    dropped = json.loads((tmp_path / "two" / "ppo" / "trajectory.json").read_text())["lengths"]
    # Two iterations of 24 responses.
    assert 0 < len(dropped) < 48


@pytest.mark.slow
def test_a_rank_of_torchrun_that_is_killed_ends_the_other_with_a_message(tmp_path: Path) -> None:
    log = tmp_path / "log"
    agent = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    agent += [f"--rdzv-endpoint=127.0.0.1:{free_port()}", "-m", "lightning_rlhf.cli", "train"]
    settings = ["model=tiny", "experiment=none", "strategy=fsdp2", "trainer.devices=2", "sft.trainer.max_epochs=1000"]
    with log.open("w") as output:
        first = subprocess.Popen(
            [sys.executable, *agent, *settings, *keep([], "sft")],
            cwd=tmp_path,
            env=environ(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    ranks = _children(first.pid, log)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    assert first.wait(timeout=90) != 0
    assert not any(map(_runs, ranks)), log.read_text()
    assert "rank 0 ends because it lost the connection to another process, which has ended" in log.read_text()
    # Only torchrun may print a traceback, and none of the ranks.
    assert "lightning_rlhf/assembly/run.py" not in log.read_text()


def _child(pid: int, log: Path) -> int:
    """Waits until the run trains, and returns the process id of the second rank."""
    return _children(pid, log)[0]


def _children(pid: int, log: Path) -> list[int]:
    """Waits until the run trains, and returns the ids of the processes that a process has started."""
    start = time.monotonic()
    while "loss" not in log.read_text():
        assert time.monotonic() - start < 120, log.read_text()
        time.sleep(0.5)
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
