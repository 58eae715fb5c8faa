"""Settings that are found in a folder are read as data, so nothing that they name is run."""

from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lightning_rlhf.assembly.run_files import read_record, read_settings
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.lora import Lora

OURS = {
    "model": {
        "_target_": "lightning_rlhf.models.source.ModelSource",
        "_convert_": "all",
        "pretrained": "somewhere",
        "trust_remote_code": False,
        "adapter": {"_target_": "lightning_rlhf.models.adapters.lora.Lora", "rank": 4},
    },
    "data": {"template": None},
    # These are never built here, so users may have named classes of their own.
    "callbacks": {"own": {"_target_": "my_package.Callback"}},
}


def settings(folder: Path, place: str = "data.template", value: Any = None) -> Path:
    """Writes a file of settings in which one setting is changed."""
    config = OmegaConf.create(OURS)
    OmegaConf.update(config, place, value, force_add=True)
    file = folder / "config.yaml"
    OmegaConf.save(config, file)
    return file


def test_the_settings_that_a_run_leaves_are_read(tmp_path: Path) -> None:
    source = instantiate(read_settings(settings(tmp_path)).model, _convert_="all")
    assert (source.pretrained, source.adapter) == ("somewhere", Lora(rank=4))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model._target_", "pandas.read_pickle"),
        # These functions of Hydra call any other function by its name.
        ("model._target_", "hydra.utils.get_method"),
        # This function of the package runs what its arguments name.
        ("model._target_", "lightning_rlhf.rewards.load_function"),
        ("model._target_", None),
        ("model.adapter", {"_target_": "torch.hub.load", "repo_or_dir": "someone/else", "source": "github"}),
        ("model.adapter", {"_target_": "lightning_rlhf.models.source.ModelSource"}),
        ("model.tokenizer", {"_target_": "os.system", "command": "true"}),
        ("model.config", {"model_type": "llama", "deep": [{"_target_": "os.system", "command": "true"}]}),
        ("model._partial_", True),
        ("model.adapter._args_", ["one"]),
        ("model._recursive_", False),
        ("model.pretrained", "${oc.env:HOME}"),
        ("model.seed", "${oc.decode:'1'}"),
        ("data.template", "${hydra:runtime.cwd}"),
        # An interpolation is dangerous anywhere, since it is computed as soon as it is read.
        ("reward.api_key", "${oc.env:HOME}"),
        ("data.template", {"_target_": "os.system"}),
        ("model.trust_remote_code", True),
        ("model.trust_remote_code", "yes"),
        ("model.no_such_setting", 1),
        ("model", "somewhere"),
    ],
)
def test_what_would_be_run_is_named_with_its_file_and_its_place(place: str, value: Any, tmp_path: Path) -> None:
    file = settings(tmp_path, place, value)
    with pytest.raises(UserError) as refused:
        read_settings(file)
    assert str(refused.value).startswith(f"{file}: ")
    assert place.split(".")[-1] in str(refused.value)


def test_code_of_the_model_runs_only_if_the_user_says_so(tmp_path: Path) -> None:
    file = settings(tmp_path, "model.trust_remote_code", True)
    assert read_settings(file, trust_remote_code=True).model.trust_remote_code is True
    # The user's permission is not passed on to a model that does not need it.
    assert read_settings(settings(tmp_path), trust_remote_code=True).model.trust_remote_code is False


@pytest.mark.parametrize("text", ["model: !!python/object/apply:os.system ['true']", "a: [", "- a", "", "model: 1"])
def test_a_file_of_another_kind_is_an_error_with_its_name(text: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match="config.yaml: not"):
        read_settings(file)


@pytest.mark.parametrize("text", ["{", "[]", '"finished"', ""])
def test_a_record_of_another_kind_is_an_error_with_its_name(text: str, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text(text)
    with pytest.raises(UserError, match="result.json: not"):
        read_record(file)
