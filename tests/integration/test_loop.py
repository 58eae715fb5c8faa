"""Once round the loop of docs/loop.md with a tiny model, by the script that draws its pictures."""

import runpy
from pathlib import Path

import pytest
from labelling import browser_path, rows
from support import command, result_of, run_folder

ROOT = Path(__file__).parents[2]
SHORT = ["ppo.trainer.max_epochs=2", "ppo.module.rollout_batch_size=16", "ppo.module.minibatch_size=8"]


@pytest.mark.slow
def test_twenty_choices_become_a_reward_model_and_a_better_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser_path("chromium")
    done = command(tmp_path, "stage=sft", "model=tiny", "sft.trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr
    sft = run_folder(tmp_path) / "model"
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(ROOT / "docs" / "draw_loop.py"))["main"]
    evaluation = main(
        str(sft), tmp_path, 20, ["model=tiny", "reward_model.trainer.max_epochs=1"], ["model=tiny", *SHORT]
    )

    assert sum(row["verdict"] == "better" for row in rows(tmp_path / "labels.jsonl")) == 20
    assert len(rows(tmp_path / "outputs/chat/preferences.jsonl")) == 1
    result = result_of(evaluation)
    assert result["judges"]["reward"]["missing"] == 0
    # PPO has done what the choices ask for.
    assert result["metrics"]["reward_win_rate_low"] > 0.5
    assert {path.name for path in tmp_path.glob("*.png")} == {
        f"loop_{page}_{size}.png" for page in ("label", "chat") for size in ("wide", "narrow")
    }
