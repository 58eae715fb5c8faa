"""A comparison fails if numbers are missing, instead of comparing nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from compare import differences

NORMS = {"grad_norm": [2.0] * 6, "grad_norm_actor": [1.2] * 6, "grad_norm_critic": [1.6] * 6}
LOSSES = {"loss": [1.0] * 6, "logged_loss": [1.0] * 2}
PPO = {**LOSSES, **NORMS, "score": [0.5, 0.6], "kl": [0.0, 0.1], "val": {"score": 0.5}}


def kept(folder: Path, stage: str, numbers: dict[str, Any]) -> Path:
    (folder / stage).mkdir(parents=True)
    (folder / stage / "trajectory.json").write_text(json.dumps(numbers))
    return folder


@pytest.mark.parametrize("name", ["loss", "logged_loss", "grad_norm", "grad_norm_actor", "score", "kl"])
@pytest.mark.parametrize("left", [0, 1])
def test_a_quantity_that_is_missing_is_an_error(name: str, left: int, tmp_path: Path) -> None:
    whole = kept(tmp_path / "whole", "ppo", PPO)
    part = kept(tmp_path / "part", "ppo", PPO | {name: PPO[name][:left]})  # type: ignore[index]
    with pytest.raises(AssertionError):
        differences(part, whole, "ppo")


def test_the_second_half_of_a_run_is_compared_with_the_end_of_a_whole_one(tmp_path: Path) -> None:
    whole = kept(tmp_path / "whole", "ppo", PPO | {"loss": [9.0] * 3 + [1.0] * 3})
    half = {name: value[len(value) // 2 :] for name, value in PPO.items() if isinstance(value, list)}
    half |= {"val": PPO["val"], "kl": [0.2], **NORMS}
    found = differences(kept(tmp_path / "half", "ppo", half), whole, "ppo")
    assert found == dict.fromkeys(["loss", "logged_loss", *NORMS, "score", "val"], 0) | {"kl": pytest.approx(0.1)}


def test_other_stages_have_neither_score_nor_kl(tmp_path: Path) -> None:
    whole = kept(tmp_path, "sft", PPO | {"logged_loss": [1.0] * 6, "score": [], "kl": []})
    assert differences(whole, whole, "sft") == {"loss": 0, "logged_loss": 0, "grad_norm": 0, "val": 0}
