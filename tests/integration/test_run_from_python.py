"""What the commands do can be called from Python with a composed configuration: Hydra has no part in the run."""

from pathlib import Path

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from support import TINY, TINY_DPO, keep

from lightning_rlhf.assembly.examine import examine
from lightning_rlhf.assembly.export import export
from lightning_rlhf.assembly.plan import plan
from lightning_rlhf.assembly.run import run


def configured(command: str, *overrides: str) -> DictConfig:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return compose(command, list(overrides))


def test_a_pipeline_is_run_and_exported_from_python_and_its_configuration_stays_as_it_is(tmp_path: Path) -> None:
    config = configured("train", *keep([*TINY, *TINY_DPO], "pipeline_dpo"))
    before = OmegaConf.to_yaml(config)
    result = run(config, tmp_path)
    assert OmegaConf.to_yaml(config) == before
    assert (result["status"], list(result["stages"])) == ("finished", ["sft", "dpo"])
    assert OmegaConf.load(tmp_path / "dpo" / "config.yaml").model.pretrained == str(tmp_path / "sft" / "model")
    model = export(str(tmp_path / "dpo" / "checkpoints" / "last.ckpt"), None, None)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (model, tmp_path / "dpo" / "model")]
    assert weights[0] == weights[1]


def test_a_stage_is_examined_and_planned_from_python(tmp_path: Path) -> None:
    tiny = ["stage=sft", "model=tiny", "rollout.sampling.max_new_tokens=8"]
    examined = examine(configured("train", *tiny), tmp_path / "doctor")
    assert {check["status"] for check in examined["checks"]} == {"ok"}
    planned = plan(configured("plan", *tiny, "device_memory=1GiB"), tmp_path / "plan")
    assert planned["fits"] is True
