"""The functions that docs/tour.md names exist, and a PPO iteration calls them in the order of the page."""

import re
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from hydra import compose, initialize_config_module
from support import TINY, keep

from lightning_rlhf.assembly.renderer import load_renderer
from lightning_rlhf.assembly.stage import fit, prepare

ROOT = Path(__file__).parents[1]
TOUR = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
STOPS = [
    (name, str((ROOT / "docs" / file).resolve())) for name, file in re.findall(r"\[`([^`]+)`\]\(([^)]+\.py)\)", TOUR)
]
QUIET = ["logger=none", "~callbacks.progress", "~callbacks.run_card", "~callbacks.checkpoint", "~callbacks.export"]


def first_calls(folder: Path) -> list[tuple[str, str]]:
    """Returns the functions that a PPO iteration calls in the order of their first calls, from the first stop on."""
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        # The reward is asked about the first half of the responses while the second half is sampled.
        overrides = [*keep(TINY, "ppo"), *QUIET, "ppo.trainer.max_epochs=1", "reward=gold", f"run_dir={folder}"]
        overrides.append("rollout.micro_batch_size=8")
        config = compose("train", [*overrides, "ppo.trainer.num_sanity_val_steps=0", "ppo.critic_init=policy"])
    stage = prepare(config, "ppo", folder, load_renderer(config))
    stage.data.setup("fit")
    calls: dict[tuple[str, str], None] = {}

    def note(frame: FrameType, event: str, argument: Any) -> None:
        call = (frame.f_code.co_qualname, frame.f_code.co_filename)
        if event == "call" and (calls or call == STOPS[0]):
            calls.setdefault(call)

    # The reward is asked in a thread.
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        fit(stage, None)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return list(calls)


def test_an_iteration_calls_the_functions_of_the_tour_in_its_order(tmp_path: Path) -> None:
    calls = first_calls(tmp_path)
    assert [stop for stop in STOPS if stop not in calls] == []
    assert sorted(STOPS, key=calls.index) == STOPS


def test_the_tour_goes_through_at_most_twelve_files() -> None:
    assert len({file for _, file in STOPS}) <= 12
    assert len(STOPS) >= 12
