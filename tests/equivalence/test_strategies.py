"""Every strategy gives the training run of one process, with its numbers, checkpoints and exports.

Each strategy starts two processes twice. The first pair makes six optimizer steps of each stage and is then killed. The
second pair continues from the checkpoint in the middle, with twice as many parts of a minibatch.
"""

from functools import partial
from pathlib import Path

import pytest
from cases import CASES, beyond, go_on, reference, train
from compare import differences, trajectory, weight_difference
from support import once
from worker import STAGES

from lightning_rlhf import PPOModule, RewardModule, SFTModule, export_model
from lightning_rlhf.assembly.export import export
from lightning_rlhf.errors import UserError
from lightning_rlhf.modules.stage_module import StageModule

# These two represent most others: whole models in each process, and sharded models.
QUICK = ("ddp", "fsdp2")
MODULES: dict[str, type[StageModule]] = {"sft": SFTModule, "reward": RewardModule, "ppo": PPOModule}


@pytest.fixture(
    scope="session", params=[pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in CASES]
)
def case(request: pytest.FixtureRequest) -> str:
    """Name of a strategy that this machine can run."""
    if request.param == "deepspeed_zero3_nvme":
        from deepspeed.ops.op_builder.cpu import AsyncIOBuilder

        if not AsyncIOBuilder().is_compatible(verbose=False):
            pytest.skip("needs libaio, with its headers")
    return request.param


@pytest.fixture(scope="session")
def expected(case: str, single: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that the strategy is compared with."""
    like = CASES[case].like
    if like is None:
        return single
    return once(tmp_path_factory, f"like_{like}", lambda folder: reference(case, single, folder))


@pytest.fixture(scope="session")
def trained(case: str, single: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three stages in two processes, which are killed at the end."""
    folder = tmp_path_factory.mktemp(case)
    train(case, single, folder)
    return folder


@pytest.fixture(scope="session")
def resumed(case: str, single: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second half again from the checkpoints, in new processes and smaller parts."""
    if not CASES[case].resumes:
        pytest.skip("its checkpoints cannot be resumed")
    folder = tmp_path_factory.mktemp(f"{case}_resumed")
    go_on(case, single, trained, folder)
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_give_the_numbers_of_one(case: str, stage: str, expected: Path, trained: Path) -> None:
    assert len(trajectory(trained, stage)["loss"]) == len(trajectory(trained, stage)["grad_norm"]) == 6
    found = differences(trained, expected, stage)
    assert beyond(case, found) == {}


def test_frozen_nets_are_divided_where_weights_are(case: str, trained: Path) -> None:
    (share,) = trajectory(trained, "ppo")["frozen_here"]
    assert share < 0.51 if CASES[case].divides else share == 1


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_goes_on_as_if_nothing_had_been(case: str, stage: str, trained: Path, resumed: Path) -> None:
    assert len(trajectory(resumed, stage)["loss"]) == 3
    found = differences(resumed, trained, stage)
    assert beyond(case, found) == {}
    assert weight_difference(resumed / stage / "model", trained / stage / "model") < CASES[case].weights


@pytest.mark.parametrize("stage", STAGES)
def test_its_export_is_that_of_one_process(case: str, stage: str, expected: Path, trained: Path) -> None:
    assert weight_difference(trained / stage / "model", expected / stage / "model") < CASES[case].weights


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_holds_what_changes_and_is_exported_and_loaded_by_one_process(
    case: str, stage: str, trained: Path, tmp_path: Path
) -> None:
    checkpoint = trained / stage / "checkpoints" / "epoch_1.ckpt"
    if not CASES[case].resumes:
        for read in (
            partial(export, output_dir=str(tmp_path / "model"), dtype=None),
            MODULES[stage].load_from_checkpoint,
        ):
            with pytest.raises(UserError, match="start from the export"):
                read(str(checkpoint))
        return
    export(str(checkpoint), str(tmp_path / "model"), None)
    if stage != "reward":  # The scale of a reward model is set after the last checkpoint.
        assert weight_difference(tmp_path / "model", trained / stage / "model") < CASES[case].weights
    module = MODULES[stage].load_from_checkpoint(checkpoint)
    (net,) = module.export_nets().values()
    export_model(net, module.renderer, tmp_path / "again", {})
    assert weight_difference(tmp_path / "again", tmp_path / "model") == 0
