"""`lightning-rlhf doctor <the same overrides as train>`: examines a run before it costs anything."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lightning_rlhf.assembly.overrides import check_overrides
from lightning_rlhf.assembly.run_folder import accounted_for
from lightning_rlhf.cli.app import exit_codes, run_ranks
from lightning_rlhf.distributed.launcher_watch import obey_signals


@hydra.main(version_base="1.3", config_path="pkg://lightning_rlhf.conf", config_name="doctor")
def _app(config: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    with exit_codes(), accounted_for(folder, list(config.stages)):
        obey_signals()
        check_overrides(config, hydra_config.overrides.task, hydra_config.runtime.choices)
        # Importing torch and Lightning takes seconds, so the configuration is checked first.
        from lightning_rlhf.assembly.examine import examine
        from lightning_rlhf.distributed.collectives import is_first_process

        checks = examine(config, folder)["checks"]
    # Only the first process exits with 1. If another one did, Lightning would end the first, which may not have written
    # its result yet.
    if is_first_process() and any(check["status"] == "error" for check in checks):
        sys.exit(1)


def main() -> None:
    """Entry point of the command."""
    run_ranks(_app, "doctor")


if __name__ == "__main__":
    main()
