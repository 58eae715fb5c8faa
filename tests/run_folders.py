"""Writes folders like those that runs leave, for tests of the pages about them."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_run(
    folder: Path,
    stage: str = "ppo",
    *,
    metrics: dict[str, float] | None = None,
    rows: Sequence[dict[str, Any]] = (),
    samples: Sequence[dict[str, Any]] = (),
    config: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    **result: Any,
) -> Path:
    """Writes the folder of one stage.

    Args:
        folder: The folder.
        stage: Name of the stage.
        metrics: The held-out metrics of `result.json`.
        rows: The rows of `metrics.csv`.
        samples: The lines of `samples.jsonl`.
        config: The composed configuration that Hydra writes.
        settings: The configuration of the stage.
        **result: Further entries of `result.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = {"stage": stage, "status": "finished", "metrics": metrics or {}, "seconds": 60.0, **result}
    (folder / "result.json").write_text(json.dumps(record), encoding="utf-8")
    if rows:
        with (folder / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)
    if samples:
        lines = "".join(json.dumps(sample) + "\n" for sample in samples)
        (folder / "samples.jsonl").write_text(lines, encoding="utf-8")
    if config is not None:
        (folder / ".hydra").mkdir(exist_ok=True)
        # JSON is YAML too.
        (folder / ".hydra" / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    if settings is not None:
        (folder / "config.yaml").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def held_out(row: int, iteration: int, response: str, prompt: str = "", **more: Any) -> dict[str, Any]:
    """A line of `samples.jsonl`: an answer to a held-out prompt, of which each row has one of its own by default."""
    asked = prompt or f"Prompt {row}?"
    fixed = {"iteration": iteration, "phase": "evaluation", "row": row, "prompt": asked, "response": response}
    return {**fixed, "finish_reason": "stop", **more}


def rollout(iteration: int, response: str, **more: Any) -> dict[str, Any]:
    """A line of `samples.jsonl`: a sample of a rollout."""
    fixed = {"iteration": iteration, "phase": "rollout", "prompt": "Rollout?", "response": response}
    return {**fixed, "finish_reason": "stop", **more}
