"""`lightning-rlhf benchmark <the same overrides as train, and a few more>`: measures the speed and memory of PPO."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lightning_rlhf.assembly.benchmark_settings import check_benchmark
from lightning_rlhf.cli.app import run_job, run_ranks
from lightning_rlhf.distributed.launcher_watch import obey_signals


@hydra.main(version_base="1.3", config_path="pkg://lightning_rlhf.conf", config_name="benchmark")
def _app(config: DictConfig) -> None:
    overrides = list(HydraConfig.get().overrides.task)
    run_job(lambda folder: _benchmark(config, folder, overrides), ["benchmark"], overrides)


def _benchmark(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    obey_signals()
    check_benchmark(config, overrides, HydraConfig.get().runtime.choices)
    # Importing torch and Lightning takes seconds, so the configuration is checked first.
    from lightning_rlhf.assembly.benchmark import benchmark

    benchmark(config, folder)


def main() -> None:
    """Entry point of the command."""
    run_ranks(_app, "benchmark")


if __name__ == "__main__":
    main()
