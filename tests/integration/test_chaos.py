"""The short form of `tests/chaos.py`: one run that is killed at a random moment."""

import json
from pathlib import Path

import chaos
import pytest


@pytest.mark.slow
def test_a_run_that_is_killed_and_started_again_leaves_what_a_whole_run_leaves(tmp_path: Path) -> None:
    outcomes = list(chaos.trials(["sft"], 1, 1, tmp_path))
    assert outcomes[-1]["kills"]
    assert [outcome["differences"] for outcome in outcomes] == [[]] * len(outcomes)
    whole = tmp_path / "whole_sft"
    assert {Path(name).suffix for name in chaos.contents(whole)} == {".safetensors", ".csv", ".jsonl", ".json"}
    # Outcomes are kept, so the script goes on behind them.
    assert list(chaos.trials(["sft"], 1, 1, tmp_path)) == outcomes


def test_what_differs_from_a_whole_run_is_named(tmp_path: Path) -> None:
    for name, step in (("whole", 2), ("torn", 2), ("other", 3)):
        folder = tmp_path / name / "sft"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(f"step,train/loss,perf/seconds\n{step},0.5,{len(name)}\n")
        (folder / "samples.jsonl").write_text('{"response": "a"}\n')
        (folder / "result.json").write_text(json.dumps({"metrics": {"loss": 0.5}, "seconds": len(name)}))
        (folder / "model.safetensors").write_bytes(b"\0" * step)
    assert chaos.differences(tmp_path / "whole", tmp_path / "torn") == []
    changed = chaos.differences(tmp_path / "whole", tmp_path / "other")
    assert changed == ["sft/metrics.csv", "sft/model.safetensors"]
    (tmp_path / "torn/sft/samples.jsonl").write_text('{"response": "a"}\n' * 2)
    (tmp_path / "torn/sft/result.json").unlink()
    assert chaos.differences(tmp_path / "whole", tmp_path / "torn") == ["sft/result.json", "sft/samples.jsonl"]
