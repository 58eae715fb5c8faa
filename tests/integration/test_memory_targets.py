"""What benchmarks/memory_targets.py measures is what nets, gradients and optimizer take."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

CONFIG = {"model_type": "gpt2", "vocab_size": 814, "n_positions": 64, "n_embd": 256, "n_layer": 2, "n_head": 2}
NUM_WEIGHTS = (814 + 64) * 256 + 2 * (12 * 256**2 + 13 * 256) + 2 * 256
RESPONSE = 4


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return import_module("memory_row")


@pytest.fixture
def nets(rows: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "nets"
    import_module("memory_nets").write(CONFIG, folder, prompt_length=20, reward_net=True)
    return folder


def test_four_nets_take_four_times_their_weights_and_shared_ones_less_than_half_of_that(
    rows: Any, nets: Path, tmp_path: Path
) -> None:
    peaks = {}
    for roles in ("separate", "shared"):
        folder = tmp_path / roles
        folder.mkdir()
        peaks[roles] = rows.ours(folder, nets, 1, RESPONSE, ["adapter=lora", f"roles={roles}"])
    for phase in ("rollout", "update"):
        separate, shared = (peaks[roles][phase] / (4 * NUM_WEIGHTS) for roles in ("separate", "shared"))
        assert 4 < separate < 5
        assert 1 < shared < 2


def test_ppo_by_hand_takes_four_nets_two_gradients_and_two_optimizer_states(rows: Any, nets: Path) -> None:
    peaks = rows.plain(nets, 2, RESPONSE)
    assert 8 < peaks["rollout"] / (4 * NUM_WEIGHTS) < 9
    assert 10 < peaks["update"] / (4 * NUM_WEIGHTS) < 11
