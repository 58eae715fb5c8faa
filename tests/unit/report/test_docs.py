"""docs/reports.md and docs/sweeps.md name only settings that there are, and their code runs."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from run_folders import held_out, write_run

from lightning_rlhf.assembly.config_files import CONF
from lightning_rlhf.assembly.target_checks import arguments, check_targets
from lightning_rlhf.cli import COMMANDS

PAGES = {name: (Path(__file__).parents[3] / "docs" / name).read_text() for name in ("reports.md", "sweeps.md")}
# The words of each line that runs a command of this package, without variables of the environment before it.
LINES = [
    [word for word in shlex.split(line, comments=True) if not word.startswith("OMP_")][1:]
    for text in PAGES.values()
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if "lightning-rlhf " in line.partition("#")[0]
]
TARGETS = {"report": "lightning_rlhf.assembly.report.report", "export": "lightning_rlhf.assembly.publish.publish"}


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_a_command_sets_only_what_there_is(line: list[str]) -> None:
    command, words = line[0], [word for word in line[1:] if word != "-m"]
    assert command in COMMANDS
    # A sweep gives its jobs values; here the interval or the first value of a list stands for them.
    plain = [re.sub(r"=(?:tag\(log,interval\(([^,]+),.*|([^,\[]+),.*)", r"=\1\2", word) for word in words]
    own = [word for word in plain if not word.startswith("hydra")]
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose(command, overrides=own)
    for override in OverridesParser.create().parse_overrides(own):
        key = override.key_or_group
        if not (CONF / key).is_dir():
            assert str(OmegaConf.select(config, key, default="absent")) == str(override.value()), key
    if command in TARGETS:
        arguments(config, TARGETS[command])
    elif config.search:
        check_targets({"search": OmegaConf.to_container(config.search)})


def test_there_are_commands_to_check() -> None:
    assert len(LINES) >= 9


def test_the_code_of_a_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGES["reports.md"], re.DOTALL)
    rows = [{"epoch": i - 1, "step": i, "rollout/kl": 0.1, "val/score": 1.0 * i, "val/kl": 0.5 * i} for i in range(3)]
    write_run(tmp_path / "outputs" / "ppo" / "RUN", rows=rows, samples=[held_out(0, 1, "a", score=1.0)])
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "reports.md", "exec"), {})


def test_the_page_on_sweeps_explains_every_setting_of_a_search() -> None:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        settings = compose("train", overrides=["search=optuna"]).search
    explained = set(re.findall(r"^\| `search\.(\w+)`", PAGES["sweeps.md"], re.MULTILINE))
    assert explained == settings.keys() - {"_target_"}
