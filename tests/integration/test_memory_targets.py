"""benchmarks/memory_targets.py measures the memory that models, gradients and optimizer need."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from support import environ

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CONFIG = {"model_type": "gpt2", "vocab_size": 814, "n_positions": 64, "n_embd": 256, "n_layer": 2, "n_head": 2}
NUM_WEIGHTS = (814 + 64) * 256 + 2 * (12 * 256**2 + 13 * 256) + 2 * 256
RESPONSE = 4


@pytest.fixture
def nets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.syspath_prepend(BENCHMARKS)
    folder = tmp_path / "nets"
    import_module("memory_nets").write(CONFIG, folder, prompt_length=20, reward_net=True)
    return folder


def peaks(nets: Path, who: str, iterations: int, *overrides: str) -> dict[str, float]:
    """Measures the peak of each phase in model sizes, in a separate process, so that no other memory is counted."""
    folder = nets.with_name("row")
    row = [BENCHMARKS / "memory_row.py", folder, nets, who, "0", str(iterations), str(RESPONSE), *overrides]
    done = subprocess.run([sys.executable, *row], env=environ(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "row.json").read_text())
    return {phase: found[phase] / (4 * NUM_WEIGHTS) for phase in ("rollout", "update")}


@pytest.mark.slow
def test_four_nets_take_four_times_their_weights_and_shared_ones_less_than_half_of_that(nets: Path) -> None:
    separate = peaks(nets, "ours", 1, "adapter=lora", "roles=separate")
    shared = peaks(nets, "ours", 1, "adapter=lora", "roles=shared")
    for phase in ("rollout", "update"):
        assert 4 < separate[phase] < 5
        assert 1 < shared[phase] < 2


@pytest.mark.slow
def test_ppo_by_hand_takes_four_nets_two_gradients_and_two_optimizer_states(nets: Path) -> None:
    found = peaks(nets, "plain", 2)
    assert 8 < found["rollout"] < 9
    assert 10 < found["update"] < 11
