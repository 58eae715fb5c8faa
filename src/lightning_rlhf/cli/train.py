"""`train`: runs the stages that the configuration names, and hands the export of each stage to the next."""

import logging
import sys
from pathlib import Path

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lightning_rlhf.assembly.overrides import check_command_line
from lightning_rlhf.assembly.run_folder import accounted_for, agreed_time
from lightning_rlhf.assembly.sweep_overrides import of_stages, without_idle
from lightning_rlhf.cli.app import exit_codes, run_app
from lightning_rlhf.distributed.launcher_watch import end_with_launcher


@hydra.main(version_base="1.3", config_path="pkg://lightning_rlhf.conf", config_name="train")
def _app(config: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    if hydra_config.mode == RunMode.MULTIRUN:
        overrides = of_stages(overrides, config.stages)
        # Lightning starts the other processes of a node with these arguments, so they must be those of this job and not
        # those of the sweep.
        sys.argv[1:] = overrides
        # Hydra reports the error of a job when all jobs have ended.
        with accounted_for(Path(hydra_config.runtime.output_dir), list(config.stages), keep=True):
            _train(config, hydra_config, overrides)
    else:
        with exit_codes(), accounted_for(Path(hydra_config.runtime.output_dir), list(config.stages)):
            _train(config, hydra_config, overrides)


def _train(config: DictConfig, hydra_config: HydraConf, overrides: list[str]) -> None:
    folder = Path(hydra_config.runtime.output_dir)
    check_command_line(config, overrides, hydra_config.runtime.choices)
    # Importing torch and Lightning takes seconds, so the configuration is checked first.
    from lightning_rlhf.assembly.resume import how_to_go_on
    from lightning_rlhf.assembly.run import run

    # Hydra has set up logging for errors only. INFO is enabled after these imports, during which libraries would log.
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    try:
        run(config, folder)
    except KeyboardInterrupt as error:
        # The installed program puts the file of the command into argv.
        program = ["python", "train.py"] if Path(sys.argv[0]).parent.name != "cli" else ["lightning-rlhf", "train"]
        raise KeyboardInterrupt(how_to_go_on(folder, list(config.stages), [*program, *overrides])) from error


def main() -> None:
    """Entry point of the command."""
    end_with_launcher()
    sys.argv[1:], notes = without_idle(sys.argv[1:])
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    agreed = agreed_time()
    if agreed is not None:
        # Comes first, so that an override of the user wins.
        sys.argv.insert(1, "hydra.run.dir=outputs/${hydra:runtime.choices.stage}/" + agreed)
    run_app(_app)


if __name__ == "__main__":
    main()
