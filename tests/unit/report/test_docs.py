"""The code of docs/reports.md runs, and docs/sweeps.md explains every setting of a search."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from run_folders import held_out, write_run

PAGES = {name: (Path(__file__).parents[3] / "docs" / name).read_text() for name in ("reports.md", "sweeps.md")}


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
