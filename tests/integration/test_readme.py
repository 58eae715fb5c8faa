"""The code and the commands of the README run as they are written."""

import re
import shlex
from pathlib import Path

import lightning
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from support import trainer

README = (Path(__file__).parents[2] / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("python train.py") and "--" not in line
]


def test_the_snippet_trains_the_three_stages_without_hydra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(**settings: object) -> lightning.Trainer:
        return trainer(tmp_path, **{**settings, "limit_train_batches": 2, "max_epochs": 1})

    monkeypatch.setattr(lightning, "Trainer", short)
    monkeypatch.chdir(tmp_path)
    assert len(PYTHON) == 1
    names: dict[str, object] = {}
    exec(compile(PYTHON[0], "README.md", "exec"), names)
    assert (tmp_path / "models" / "sft" / "model.safetensors").is_file()
    assert names["trainer"].global_step == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_sets_only_what_there_is(command: str) -> None:
    overrides = [word for word in shlex.split(command.replace("<run>", "run"))[2:] if word != "-m"]
    # Of the values that a sweep lists, one is used.
    overrides = [re.sub(r"=([^,\[]+),.*", r"=\1", override) for override in overrides]
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("train", overrides=[*overrides, "run_dir=/tmp/run"])
    for override in overrides:
        key, value = override.split("=", 1)
        if "." in key:
            assert str(OmegaConf.select(config, key)) == {"null": "None", "1e-3": "0.001"}.get(value, value)


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 7
