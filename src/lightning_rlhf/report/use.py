"""The code of a run card that loads, uses and serves what a run has exported."""

from pathlib import Path
from typing import NamedTuple

from lightning_rlhf.models.names import adapter_folder
from lightning_rlhf.models.training_record import manifest_of
from lightning_rlhf.models.usage import Lines, Usage
from lightning_rlhf.report.run import Run


class Use(NamedTuple):
    """One export of a run."""

    title: str
    lines: Lines
    reward_model: bool


def how_to_use(run: Run) -> list[Use]:
    """Returns how to use the model of the last stage, and the adapter beside it if there is one."""
    folder = run.result.model_dir or (run.stages[-1].result.model_dir if run.stages else None)
    if folder is None:
        return []
    reward_model = bool(run.stages) and run.stages[-1].record.trains_reward_model
    usage = Usage.of_manifest(manifest_of(folder), reward_model=reward_model)
    uses = [Use("Load the model", usage.of_model(folder), usage.reward_model)]
    adapter = adapter_folder(Path(folder))
    base = manifest_of(adapter).get("base_model")
    if isinstance(base, str):
        relative = (adapter / base).is_dir()
        uses.append(
            Use("Load the adapter", usage.of_adapter(str(adapter), base, relative=relative), usage.reward_model)
        )
    return uses
