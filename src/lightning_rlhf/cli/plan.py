"""`plan`: says before anything is launched what a run needs, whether it fits, and what makes it fit."""

from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lightning_rlhf.cli.app import exit_codes, run_app


@hydra.main(version_base="1.3", config_path="pkg://lightning_rlhf.conf", config_name="plan")
def _app(config: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        plan(config, folder)
    else:
        with exit_codes():
            plan(config, folder)


def plan(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Plans all stages of a configuration.

    Args:
        config: That of `train`, and what conf/plan.yaml adds.
        folder: Gets `result.json`.

    Returns:
        What `result.json` holds.

    Raises:
        UserError: For anything that the user can mend.
    """
    import time

    from lightning_rlhf.cli.plan_settings import Asked

    asked = Asked.of(config)
    from lightning_rlhf.callbacks.run_record import versions, write_json
    from lightning_rlhf.cli.plan_tables import print_plan
    from lightning_rlhf.cli.planned import planned_stage
    from lightning_rlhf.cli.quiet import quiet

    quiet()
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
        | ({} if fits is None else {"micro_batch": _micro_batches(list(stages.values()))}),
        "peak_bytes_per_device": peak,
        "fits": fits,
        "seconds": round(time.perf_counter() - start, 3),
        "versions": versions(),
        "plans": stages,
    }
    write_json(folder / "result.json", result)
    return result


def _micro_batches(records: list[dict[str, Any]]) -> str:
    """The largest micro-batch of each stage that fits, or what is needed with the smallest one."""
    cells = []
    for record in records:
        needs = f"needs {record['peak_of_one_row'] / 2**30:.1f} GiB"
        cells.append(str(record["largest_micro_batch"] or needs))
    return ", ".join(cells)


def main() -> None:
    """Entry point of the command."""
    run_app(_app)


if __name__ == "__main__":
    main()
