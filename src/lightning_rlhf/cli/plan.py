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

    from lightning_rlhf.callbacks.run_record import versions, write_json
    from lightning_rlhf.cli.jobs import job_of
    from lightning_rlhf.cli.plan_tables import print_plan
    from lightning_rlhf.cli.quiet import quiet
    from lightning_rlhf.planner.flops import seconds
    from lightning_rlhf.planner.knobs import savings, smallest
    from lightning_rlhf.planner.plan import Plan, largest_micro_batch
    from lightning_rlhf.sizes import parse_bytes

    quiet()
    start = time.perf_counter()
    limits = {name: config[name] and parse_bytes(config[name], name) for name in ("device_memory", "host_memory")}
    device = limits["device_memory"]
    stages = {}
    for name in config.stages:
        planned = Plan(job_of(config, name), float(config.fragmentation))
        record = planned.record()
        record["fits"] = None if not any(limits.values()) else planned.fits(**limits)
        record["seconds"] = seconds(record["flops"], planned.job.processes, float(config.device_flops), config.mfu)
        found = savings(planned, device)
        record["knobs"] = [
            {"setting": s.knob.setting, "saves": s.saves, "peak": s.peak, "fits": s.fits, "cost": s.knob.cost}
            for s in found
        ]
        if device is not None:
            chosen = smallest(planned, device)
            record["remedy"] = None if chosen is None else [knob.setting for knob in chosen]
            record["largest_micro_batch"] = largest_micro_batch(planned, device)
        stages[name] = record
        print_plan(name, planned, record, limits)
    verdicts = [record["fits"] for record in stages.values()]
    peak = max(record["peak_bytes_per_device"] for record in stages.values())
    result = {
        "stage": "plan",
        "status": "finished",
        "metrics": {"peak_bytes_per_device": peak, "peak_gib": round(peak / 2**30, 2)}
        | ({} if None in verdicts else {"fits": all(verdicts)}),
        "peak_bytes_per_device": peak,
        "fits": None if None in verdicts else all(verdicts),
        "seconds": round(time.perf_counter() - start, 3),
        "versions": versions(),
        "plans": stages,
    }
    write_json(folder / "result.json", result)
    return result


def main() -> None:
    """Entry point of the command."""
    run_app(_app)


if __name__ == "__main__":
    main()
