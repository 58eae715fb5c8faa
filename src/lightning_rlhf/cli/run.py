"""Runs stages one after the other, and tells what came of them."""

import logging
import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.callbacks.run_record import versions, write_json
from lightning_rlhf.cli.check import check_targets
from lightning_rlhf.cli.quiet import quiet
from lightning_rlhf.cli.resume import Resumed, find_resumed
from lightning_rlhf.cli.stage import BLOCKS, run_stage
from lightning_rlhf.cli.summary import print_summary
from lightning_rlhf.errors import UserError

log = logging.getLogger(__name__)


def run(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Runs the stages of a configuration.

    Args:
        config: The composed configuration.
        folder: The run's folder.

    Returns:
        What `result.json` holds.

    Raises:
        UserError: For anything that the user can mend.
    """
    quiet()
    start = time.perf_counter()
    check_recipe(config)
    stages = list(config.stages)
    resumed = find_resumed(config.resume, stages)
    if len(stages) == 1:
        result = _run_one(config, stages[0], folder, resumed)
    else:
        result = _run_pipeline(config, stages, folder, resumed, start)
    print_summary(result, folder)
    return result


def check_recipe(config: DictConfig) -> None:
    """Checks that the demo's settings are not used for another model.

    Raises:
        UserError: If they are.
    """
    choices = HydraConfig.get().runtime.choices
    if choices.get("experiment") == "demo" and choices["model"] not in ("demo", "tiny"):
        raise UserError(
            f"model={choices['model']} with experiment=demo, whose learning rates are for a net of 2 million "
            "parameters: add experiment=none"
        )


def _run_pipeline(
    config: DictConfig, stages: list[str], folder: Path, resumed: Resumed, start: float
) -> dict[str, Any]:
    results: dict[str, Any] = {}

    def record(status: str) -> dict[str, Any]:
        whole = {
            "stage": "pipeline",
            "status": status,
            "metrics": {},
            "model_dir": results.get("ppo", {}).get("model_dir"),
            "seconds": round(time.perf_counter() - start, 3),
            "versions": versions(),
            "seed": config.seed,
            "stages": results,
        }
        write_json(folder / "result.json", whole)
        return whole

    try:
        for number, stage in enumerate(stages, 1):
            log.info("\n%d/%d %s", number, len(stages), stage)
            if stage in resumed.finished:
                results[stage] = resumed.finished[stage]
                log.info("already finished: %s", results[stage]["model_dir"])
            else:
                results[stage] = _run_one(config, stage, folder / stage, resumed)
            _hand_on(config, stage, results[stage]["model_dir"])
            record("running")
    except KeyboardInterrupt:
        record("interrupted")
        raise
    except Exception:
        record("failed")
        raise
    whole = record("finished")
    from lightning_rlhf.report import write_report

    write_report(folder)
    return whole


def _run_one(config: DictConfig, stage: str, folder: Path, resumed: Resumed) -> dict[str, Any]:
    config = config.copy()
    config.run_dir = str(folder)
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    check_targets({key: plain[key] for key in ("model", "trainer", "logger", "callbacks", BLOCKS[stage])})
    folder.mkdir(parents=True, exist_ok=True)
    return run_stage(config, stage, folder, resumed.checkpoints.get(stage))


def _hand_on(config: DictConfig, stage: str, model_dir: str) -> None:
    """Lets the following stages start from what this one exported."""
    if stage == "sft":
        config.model.pretrained, config.model.tokenizer = model_dir, None
    elif stage == "reward" and "path" in config.reward:
        config.reward.path = model_dir
