"""One model for four roles on the command line: what is handed on, what is kept, and what is refused."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support import TINY, command, keep, result_of, run_folder

from lightning_rlhf.assembly.export import export
from lightning_rlhf.strategies.checkpoint_weights import read_weights

SHARED = ("adapter=lora", "roles=shared", "experiment=none")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pipeline run."""
    folder = tmp_path_factory.mktemp("pipeline")
    done = command(folder, *TINY, *SHARED)
    assert done.returncode == 0, done.stderr
    assert "reference: an adapter of the backbone" in done.stdout
    return run_folder(folder)


def test_all_stages_train_adapters_of_the_first_net(pipeline: Path) -> None:
    for stage in ("sft", "reward", "ppo"):
        described = json.loads((pipeline / stage / "adapter" / "adapter_config.json").read_text())
        # A model with random weights has no name.
        assert described["base_model_name_or_path"] is None
    exports = [load_file(pipeline / stage / "model" / "model.safetensors") for stage in ("sft", "ppo")]
    changed = {name for name, weight in exports[0].items() if not weight.equal(exports[1][name])}
    assert changed
    assert all(".layers." in name for name in changed)


def test_a_checkpoint_holds_what_is_trained_and_nothing_else(pipeline: Path) -> None:
    weights = read_weights(pipeline / "ppo" / "checkpoints" / "last.ckpt")
    adapters = {name.split(".")[-2] for name in weights if ".lora_" in name}
    assert adapters == {"default", "critic"}
    assert {name for name in weights if ".lora_" not in name} == {"roles.critic.head.weight", "roles.critic.bias"}


def test_a_checkpoint_is_exported_to_the_same_model(pipeline: Path, tmp_path: Path) -> None:
    export(str(pipeline / "ppo" / "checkpoints" / "last.ckpt"), str(tmp_path / "model"), None)
    for name in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
        own, other = load_file(tmp_path / name), load_file(pipeline / "ppo" / name)
        assert own.keys() == other.keys()
        assert all(weight.equal(other[key]) for key, weight in own.items())


def test_a_stage_by_itself_gives_what_it_gives_in_the_pipeline(pipeline: Path, tmp_path: Path) -> None:
    given = (f"model.adapter_dir={pipeline}/sft/adapter", f"reward.path={pipeline}/reward/model")
    done = command(tmp_path, *keep(TINY, "ppo"), *SHARED, *given)
    assert done.returncode == 0, done.stderr
    assert result_of(run_folder(tmp_path))["metrics"] == result_of(pipeline / "ppo")["metrics"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["roles=both"], "roles=both: expected separate or shared"),
        (["roles=shared"], "each role is an adapter of one model: add adapter=lora"),
        (["roles=shared", "adapter=lora", "stage=dpo"], "DPO does not have the four roles of PPO"),
        (["model.adapter_dir=somewhere"], "nothing would train this adapter: add adapter=lora"),
        (["adapter=lora", "model.adapter_dir=somewhere"], "somewhere: not an adapter folder"),
    ],
)
def test_what_cannot_be_is_one_message(overrides: list[str], message: str, tmp_path: Path) -> None:
    stage = [] if "stage=dpo" in overrides else keep(TINY, "sft")
    done = command(tmp_path, "model=tiny", *stage, "experiment=none", *overrides)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_adapter_of_another_kind_is_refused(pipeline: Path, tmp_path: Path) -> None:
    adapter = (f"model.adapter_dir={pipeline}/sft/adapter", "model.adapter.rank=4")
    done = command(tmp_path, *keep(TINY, "sft"), *SHARED, *adapter)
    assert done.returncode == 2, done.stderr
    assert "set model.adapter.rank=8" in done.stderr
