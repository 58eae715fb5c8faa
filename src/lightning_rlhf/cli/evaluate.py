"""`evaluate`: evaluates a reward model on preferences, or one model against another."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lightning_rlhf.assembly.evaluate_settings import EvaluateSettings
from lightning_rlhf.cli.app import run_app, run_job


@hydra.main(version_base="1.3", config_path="pkg://lightning_rlhf.conf", config_name="evaluate")
def _app(config: DictConfig) -> None:
    run_job(lambda folder: _evaluate(config, folder), ["evaluate"], list(HydraConfig.get().overrides.task))


def _evaluate(config: DictConfig, folder: Path) -> None:
    # Importing torch takes seconds, so the settings are checked first.
    settings = EvaluateSettings.of(config)
    from lightning_rlhf.assembly.evaluate import evaluate

    evaluate(settings, folder)


def main() -> None:
    """Entry point of the command."""
    run_app(_app)


if __name__ == "__main__":
    main()
