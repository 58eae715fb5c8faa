"""The records of the stages agree with the modules, the settings and the exports that they describe."""

import inspect
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import get_object
from omegaconf import OmegaConf

from lightning_rlhf.assembly.renderer import load_renderer
from lightning_rlhf.assembly.stage import prepare
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.stages import STAGES, StageRecord, stage_record

RECORDS = STAGES.values()


def module_class(record: StageRecord) -> type:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return get_object(compose("train", [f"stage={record.name}"])[record.block].module["_target_"])


@pytest.mark.parametrize("record", RECORDS, ids=list(STAGES))
def test_a_module_takes_the_nets_of_its_record_and_gold_if_it_trains_a_policy(record: StageRecord) -> None:
    taken = inspect.signature(module_class(record)).parameters
    assert record.nets.keys() <= taken.keys()
    assert ("gold" in taken) != record.trains_reward_model


@pytest.mark.parametrize("record", RECORDS, ids=list(STAGES))
def test_what_a_stage_exports_lies_where_its_record_says(record: StageRecord, tmp_path: Path) -> None:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("train", [f"stage={record.name}", "model=tiny", "reward=gold"])
    module: Any = prepare(config, record.name, tmp_path, load_renderer(config)).module
    module.configure_model()
    exported = module.export_nets()["model"]
    assert module.get_submodule(record.exported) is exported
    assert isinstance(exported, ScalarModel) == record.trains_reward_model


@pytest.mark.parametrize("record", RECORDS, ids=list(STAGES))
def test_the_settings_of_a_stage_stand_in_its_block_and_it_runs_alone(record: StageRecord) -> None:
    settings = OmegaConf.load(Path(str(files("lightning_rlhf.conf"))) / "stage" / f"{record.name}.yaml")
    assert settings.stages == [record.name]
    assert settings[record.block].keys() >= {"module", "data", "trainer", "callbacks"}


@pytest.mark.parametrize("record", RECORDS, ids=list(STAGES))
def test_every_stage_exports_one_net_that_it_trains(record: StageRecord) -> None:
    assert len({"policy", "reward model"} & set(record.nets.values())) == 1


def test_a_record_fills_in_what_it_does_not_say() -> None:
    record = StageRecord(
        name="new",
        title="New",
        nets={"net": "policy"},
        reads="texts",
        exported="net",
        in_terminal=(),
        headline=("loss",),
    )
    assert (record.block, record.short_title, record.headline_of_pipeline) == ("new", "New", ("loss",))


def test_a_stage_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(UserError, match=f"there is no stage pop; there are {', '.join(STAGES)}"):
        stage_record("pop")


def test_the_records_can_be_read_without_torch() -> None:
    code = "import sys, lightning_rlhf.stages; print(*{'torch', 'lightning', 'omegaconf'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split()
