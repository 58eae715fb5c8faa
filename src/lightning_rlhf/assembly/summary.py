"""Prints how a run goes on, and its results."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from lightning_rlhf.assembly.result import RunResult
from lightning_rlhf.console import console, three_decimals
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
    for stage in stages[:1]:
        place = "its newest checkpoint" if stage in checkpoints else "its beginning, since it has no checkpoint yet"
        console.say(f"going on with {earlier}: {stage} from {place}")
    for name, (old, new) in changed.items():
        console.print(f"  {name}: {_shown(old)} → {_shown(new)}", markup=False, soft_wrap=True)


def print_summary(result: RunResult, folder: Path) -> None:
    """Prints the metrics of each stage, and the paths of model, result and run card.

    Args:
        result: The content of `result.json`.
        folder: Folder of the run.
    """
    console.print("\nOn held-out data:")
    for stage, record in result.get("stages", {result["stage"]: result}).items():
        metrics = record["metrics"]
        cells = [(name, _cell(metrics[name])) for name in STAGES[stage].in_terminal if name in metrics]
        console.cells(f"  {stage:<7}", [*cells, ("", f"({record['seconds']:.0f} s)")])
    console.print()
    for name, path in {
        "model": result["model_dir"],
        "result": folder / "result.json",
        "run card": (folder / "report.html").resolve().as_uri(),
    }.items():
        console.print(f"  {name:<9} {path}", markup=False, soft_wrap=True)


def _cell(value: float | None) -> str:
    return "not finite" if value is None else three_decimals(value)


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
