"""With adapters, strategies that keep frozen and trained weights apart give the numbers of one process."""

from pathlib import Path

import pytest
from compare import differences, launch, weight_difference
from support import once
from worker import STAGES

from lightning_rlhf.assembly.export import export

STRATEGIES = ("ddp", "fsdp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3", "colossalai_zero2")


@pytest.fixture(scope="session")
def single_lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three stages in one process, with adapters."""
    return once(
        tmp_path_factory, "single_lora", lambda folder: launch(folder, "single", f"start={folder}", "adapter=lora")
    )


@pytest.fixture(scope="session", params=STRATEGIES)
def trained(request: pytest.FixtureRequest, single_lora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in two processes, which are killed at the end."""
    folder = tmp_path_factory.mktemp("lora") / request.param
    launch(folder, request.param, "trainer.devices=2", f"start={single_lora}", "die=yes", "adapter=lora")
    return folder


@pytest.fixture(scope="session")
def resumed(trained: Path, single_lora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second half again from the checkpoints, in new processes and smaller parts."""
    folder = tmp_path_factory.mktemp("lora_resumed") / trained.name
    settings = ("trainer.devices=2", "STAGE.trainer.accumulate_grad_batches=2", "adapter=lora")
    launch(folder, trained.name, f"start={single_lora}", f"resume={trained}", *settings)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_train_the_adapter_of_one(stage: str, trained: Path, single_lora: Path) -> None:
    found = differences(trained, single_lora, stage)
    assert {name: value for name, value in found.items() if value > 1e-5} == {}
    for folder in ("model", "adapter"):
        assert weight_difference(trained / stage / folder, single_lora / stage / folder) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_with_an_adapter_goes_on(stage: str, trained: Path, resumed: Path, tmp_path: Path) -> None:
    found = differences(resumed, trained, stage)
    assert {name: value for name, value in found.items() if value > 1e-5} == {}
    assert weight_difference(resumed / stage / "adapter", trained / stage / "adapter") < 1e-6
    if stage != "reward":  # The scale of a reward model is set after the last checkpoint.
        export(str(trained / stage / "checkpoints" / "epoch_1.ckpt"), str(tmp_path / "model"), None)
        assert weight_difference(tmp_path / "model", trained / stage / "model") < 1e-6
