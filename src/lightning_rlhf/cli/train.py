"""`train`: runs the stages that the configuration names, and hands the export of each stage to the next."""

import sys
from contextlib import nullcontext
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lightning_rlhf.assembly.changed_settings import check_same_stages
from lightning_rlhf.assembly.command_line import completed
from lightning_rlhf.assembly.going_on import continued, goes_on_in
from lightning_rlhf.assembly.interrupted import leave
from lightning_rlhf.assembly.overrides import check_command_line
from lightning_rlhf.assembly.run_folder import removed_at_end
from lightning_rlhf.assembly.sweep_overrides import of_stages
from lightning_rlhf.assembly.sweeper import check_search
from lightning_rlhf.cli.app import exit_codes, run_app, run_job
from lightning_rlhf.console import print_messages
from lightning_rlhf.distributed.launcher_watch import end_with_launcher, obey_signals, put_off_signals
from lightning_rlhf.interruption import interruption_behind


@hydra.main(version_base="1.3", config_path="pkg://lightning_rlhf.conf", config_name="train")
def _app(config: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    if hydra_config.mode == RunMode.MULTIRUN:
        overrides = of_stages(overrides, config.stages)
        config = continued(config, Path(hydra_config.runtime.output_dir))
    keep = goes_on_in(config, Path(hydra_config.runtime.output_dir))
    run_job(lambda folder: _train(config, folder, overrides), list(config.stages), overrides, keep=keep)


def _train(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    try:
        obey_signals()
        with removed_at_end(folder) if config.dry_run else nullcontext():
            check_same_stages(config)
            check_search(config.search, of_sweep=HydraConfig.get().mode == RunMode.MULTIRUN)
            check_command_line(config, overrides, HydraConfig.get().runtime.choices)
            # Importing torch and Lightning takes seconds, so the configuration is checked first.
            from lightning_rlhf.assembly.dry_run import rehearse
            from lightning_rlhf.assembly.run import run

            # Hydra has set up logging for errors only. INFO is enabled after these imports, during which libraries log.
            print_messages()
            if config.dry_run:
                rehearse(config, folder)
            else:
                run(config, folder, overrides)
    except BaseException as error:
        if (stopped := interruption_behind(error)) is None or config.dry_run:
            raise
        leave(folder, list(config.stages), config.seed, stopped)
    finally:
        put_off_signals()


def main() -> None:
    """Entry point of the command."""
    end_with_launcher()
    with exit_codes():
        sys.argv[1:] = completed(sys.argv[1:])
    run_app(_start)


def _start() -> None:
    # Hydra makes the folder of the run. A signal that comes before `_train` has begun would leave it empty.
    put_off_signals()
    _app()


if __name__ == "__main__":
    main()
