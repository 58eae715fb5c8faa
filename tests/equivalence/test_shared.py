"""PPO with one model for all roles: two processes give the numbers of one, even if weights are sharded."""

from pathlib import Path

import pytest
from compare import differences, launch, weight_difference
from support import once

from lightning_rlhf import PPOModule, export_model
from lightning_rlhf.assembly.export import export

STRATEGIES = ("ddp", "fsdp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3", "colossalai_zero2")
SETTINGS = ("adapter=lora", "roles=shared")


@pytest.fixture(scope="session")
def single_shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three stages in one process, as adapters of one model."""
    return once(
        tmp_path_factory, "single_shared", lambda folder: launch(folder, "single", f"start={folder}", *SETTINGS)
    )


@pytest.fixture(scope="session", params=STRATEGIES)
def trained(request: pytest.FixtureRequest, single_shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PPO in two processes, which are killed at the end."""
    folder = tmp_path_factory.mktemp("shared") / request.param
    launch(folder, request.param, "trainer.devices=2", "stages=ppo", f"start={single_shared}", "die=yes", *SETTINGS)
    return folder


@pytest.mark.slow
def test_two_processes_train_the_adapters_of_one(trained: Path, single_shared: Path) -> None:
    found = differences(trained, single_shared, "ppo")
    assert {name: value for name, value in found.items() if value > 1e-5} == {}
    for folder in ("model", "adapter"):
        assert weight_difference(trained / "ppo" / folder, single_shared / "ppo" / folder) < 1e-5


@pytest.mark.slow
def test_a_killed_run_goes_on(trained: Path, single_shared: Path, tmp_path: Path) -> None:
    parts = ("STAGE.trainer.accumulate_grad_batches=2", "trainer.devices=2", "stages=ppo")
    launch(tmp_path, trained.name, *parts, f"start={single_shared}", f"resume={trained}", *SETTINGS)
    found = differences(tmp_path, trained, "ppo")
    assert {name: value for name, value in found.items() if value > 1e-5} == {}
    assert weight_difference(tmp_path / "ppo" / "adapter", trained / "ppo" / "adapter") < 1e-6
    export(str(trained / "ppo" / "checkpoints" / "epoch_1.ckpt"), str(tmp_path / "model"), None)
    assert weight_difference(tmp_path / "model", trained / "ppo" / "model") < 1e-6
    module = PPOModule.load_from_checkpoint(trained / "ppo" / "checkpoints" / "epoch_1.ckpt")
    export_model(module.export_nets()["model"], module.renderer, tmp_path / "again" / "model", {})
    assert weight_difference(tmp_path / "again" / "adapter", trained / "ppo" / "adapter") < 1e-6
