"""benchmarks/gpu_first_run.py, which the first person with a GPU runs, on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import environ

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_first_run.py"


@pytest.mark.slow
def test_every_part_reports_on_a_cpu_too_and_a_strategy_that_fails_says_why(tmp_path: Path) -> None:
    # A ColossalAI that is not the one that this package needs, whether or not another is installed.
    (tmp_path / "path" / "colossalai").mkdir(parents=True)
    (tmp_path / "path" / "colossalai" / "__init__.py").write_text("raise ImportError('colossalai is broken')\n")
    asked = ["--device", "cpu", "--model", "tiny", "--strategy", "single", "--strategy", "colossalai_zero2"]
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path, *asked],
        env=environ(PYTHONPATH=str(tmp_path / "path")),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "gpu_first_run.json").read_text())
    found = record["equality"]["found"]
    # The device is the CPU itself, so only an error of the script could make a difference.
    assert found["float32"] == {"logprobs": 0.0, "gradient": 0.0, "equal": True}
    assert found["bfloat16"]["equal"]
    rates = record["rollouts"]["found"]
    assert list(rates) == record["engines"]
    assert all(set(by_rows) == {"8", "32"} and min(by_rows.values()) > 0 for by_rows in rates.values())
    single = record["strategies"]["single"]["found"]
    assert single["measured_to_planned"] == pytest.approx(single["peak_tensor_bytes"] / single["planned_bytes"])
    # A plan of so small a model is rough, but no plan is off by a factor of two.
    assert 0.5 < single["measured_to_planned"] < 2
    page = (tmp_path / "gpu_first_run.html").read_text()
    for name in ("single", "colossalai_zero2", *record["engines"]):
        assert f"<tr><td>{name}</td>" in page
    assert "colossalai is broken" in record["strategies"]["colossalai_zero2"]["failed"]
    assert "colossalai is broken" in page
