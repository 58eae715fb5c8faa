"""Plans all stages of a configuration: the memory that each needs, whether it fits, and which settings make it fit."""

import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lightning_rlhf.assembly.plan_settings import Asked
from lightning_rlhf.planner.this_machine import host_memory


def plan(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Plans all stages of a configuration.

    Args:
        config: The configuration of `train` with the settings that conf/plan.yaml adds.
        folder: Folder in which `result.json` is written.

    Returns:
        The content of `result.json`.

    Raises:
        UserError: If the user can correct the error.
    """
    asked = Asked.of(config)
    from lightning_rlhf.assembly.library_messages import silence_libraries
    from lightning_rlhf.assembly.plan_job import starts_here
    from lightning_rlhf.assembly.plan_stage import planned_stage
    from lightning_rlhf.assembly.plan_tables import print_plan
    from lightning_rlhf.callbacks.run_record import versions
    from lightning_rlhf.saving import write_json

    silence_libraries()
    if starts_here(config.trainer):
        asked = asked.with_host_memory(host_memory())
    start = time.perf_counter()
    stages = {}
    for name in config.stages:
        planned, stages[name] = planned_stage(config, name, asked)
        print_plan(name, planned, stages[name], asked)
    verdicts = [record["fits"] for record in stages.values()]
    peak = max(record["peak_bytes_per_device"] for record in stages.values())
    fits = None if None in verdicts else all(verdicts)
    result = {
        "stage": "plan",
        "status": "finished",
        "metrics": {"peak_gib": round(peak / 2**30, 2)}
        | ({} if fits is None else {"fits": "yes" if fits else "no"})
        | ({"micro_batch": cells} if (cells := _micro_batches(list(stages.values()))) else {}),
        "peak_bytes_per_device": peak,
        "fits": fits,
        "seconds": round(time.perf_counter() - start, 3),
        "versions": versions(),
        "plans": stages,
    }
    write_json(folder / "result.json", result)
    return result


def _micro_batches(records: list[dict[str, Any]]) -> str:
    """The largest micro-batch of each stage that fits, or what the smallest one needs, where a plan has searched it."""
    cells = []
    for record in records:
        if "largest_micro_batch" not in record:
            continue
        needs = f"needs {record['peak_of_one_row'] / 2**30:.1f} GiB"
        cells.append(str(record["largest_micro_batch"] or needs))
    return ", ".join(cells)
