"""`lightning-rlhf benchmark <the same overrides as train, and a few more>`: measures the speed and memory of PPO."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lightning_rlhf.assembly.benchmark_settings import check_benchmark
from lightning_rlhf.assembly.run_folder import accounted_for
from lightning_rlhf.cli.app import exit_codes, run_app


@hydra.main(version_base="1.3", config_path="pkg://lightning_rlhf.conf", config_name="benchmark")
def _app(config: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    folder, overrides = Path(hydra_config.runtime.output_dir), list(hydra_config.overrides.task)
    if hydra_config.mode == RunMode.MULTIRUN:
        # Lightning starts the other processes of a node with these arguments, so they must be those of this job and not
        # those of the sweep.
        sys.argv[1:] = overrides
        with accounted_for(folder, list(config.stages), keep=True):
            _benchmark(config, folder, overrides)
    else:
        with exit_codes(), accounted_for(folder, list(config.stages)):
            _benchmark(config, folder, overrides)


def _benchmark(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    check_benchmark(config, overrides, HydraConfig.get().runtime.choices)
    # Importing torch and Lightning takes seconds, so the configuration is checked first.
    from lightning_rlhf.assembly.benchmark import benchmark

    benchmark(config, folder)


def main() -> None:
    """Entry point of the command."""
    run_app(_app)


if __name__ == "__main__":
    main()
