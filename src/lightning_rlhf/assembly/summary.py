"""Prints how a run goes on, and its results."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from lightning_rlhf.assembly.result import RunResult
from lightning_rlhf.stages import STAGES


def print_going_on(
    earlier: Path, stages: Sequence[str], checkpoints: Collection[str], changed: Mapping[str, tuple[object, object]]
) -> None:
    """Prints where a run goes on, and the settings that have changed.

    Args:
        earlier: Run folder or checkpoint of the run that was stopped.
        stages: Stages that have not finished, in order.
        checkpoints: Those of the stages that have a checkpoint.
        changed: The former and the new value of each changed setting, by its name.
    """
    console = Console(soft_wrap=True, highlight=False)
    for stage in stages[:1]:
        place = "its newest checkpoint" if stage in checkpoints else "its beginning, since it has no checkpoint yet"
        console.print(f"going on with {earlier}: {stage} from {place}", markup=False)
    for name, (old, new) in changed.items():
        console.print(f"  {name}: {_shown(old)} → {_shown(new)}", markup=False)


def print_summary(result: RunResult, folder: Path) -> None:
    """Prints the metrics of each stage, and the paths of model, result and run card.

    Args:
        result: The content of `result.json`.
        folder: Folder of the run.
    """
    console = Console(soft_wrap=True, highlight=False)
    console.print("\nOn held-out data:")
    for stage, record in result.get("stages", {result["stage"]: result}).items():
        metrics = record["metrics"]
        shown = [name for name in STAGES[stage].in_terminal if name in metrics]
        cells = [f"{name} [bold]{metrics[name]:.3f}[/]" for name in shown]
        console.print(f"  {stage:<9} {'  '.join(cells)}  ({record['seconds']:.0f} s)")
    console.print()
    for name, path in {
        "model": result["model_dir"],
        "result": folder / "result.json",
        "run card": (folder / "report.html").resolve().as_uri(),
    }.items():
        console.print(f"  {name:<9} {path}")


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
