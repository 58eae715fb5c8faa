"""Tells what came of a run."""

from pathlib import Path
from typing import Any

from rich.console import Console

_SHOWN = {
    "sft": ("loss", "perplexity", "optimality", "gold_rate", "response_length", "eos_rate"),
    "reward": ("reward_accuracy", "longer_wins_accuracy", "shorter_wins_accuracy", "loss"),
    "ppo": ("score", "optimality", "gold_rate", "gold_win_rate", "kl", "response_length", "eos_rate"),
    "dpo": ("reward_accuracy", "gold_rate", "gold_win_rate", "kl", "response_length", "eos_rate"),
}


def print_summary(result: dict[str, Any], folder: Path) -> None:
    """Prints the metrics of each stage, and where things are.

    Args:
        result: What `result.json` holds.
        folder: The run's folder.
    """
    console = Console(soft_wrap=True, highlight=False)
    console.print("\nOn held-out data:")
    for stage, record in result.get("stages", {result["stage"]: result}).items():
        metrics = record["metrics"]
        cells = [f"{name} [bold]{metrics[name]:.3f}[/]" for name in _SHOWN[stage] if name in metrics]
        console.print(f"  {stage:<9} {'  '.join(cells)}  ({record['seconds']:.0f} s)")
    console.print()
    for name, path in {
        "model": result["model_dir"],
        "result": folder / "result.json",
        "run card": (folder / "report.html").resolve().as_uri(),
    }.items():
        console.print(f"  {name:<9} {path}")
