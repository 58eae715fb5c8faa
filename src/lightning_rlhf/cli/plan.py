"""`plan`: predicts before a launch how much memory a run needs, whether it fits, and which settings make it fit."""

from pathlib import Path

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lightning_rlhf.assembly.overrides import check_plan
from lightning_rlhf.assembly.run_folder import accounted_for
from lightning_rlhf.cli.app import exit_codes, run_app


@hydra.main(version_base="1.3", config_path="pkg://lightning_rlhf.conf", config_name="plan")
def _app(config: DictConfig) -> None:
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        _plan(config, HydraConfig.get())
    else:
        folder = Path(HydraConfig.get().runtime.output_dir)
        with exit_codes(), accounted_for(folder, list(config.stages)):
            _plan(config, HydraConfig.get())


def _plan(config: DictConfig, hydra_config: HydraConf) -> None:
    check_plan(config, hydra_config.overrides.task, hydra_config.runtime.choices)
    # Importing torch takes seconds, so whatever needs no torch is checked first.
    from lightning_rlhf.assembly.plan import plan

    plan(config, Path(hydra_config.runtime.output_dir))


def main() -> None:
    """Entry point of the command."""
    run_app(_app)


if __name__ == "__main__":
    main()
