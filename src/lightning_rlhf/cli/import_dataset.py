"""`import-dataset`: converts a public data set to the formats that the stages read."""

import hydra
from omegaconf import DictConfig

from lightning_rlhf.cli.app import exit_codes, run_app


@hydra.main(version_base="1.3", config_path="pkg://lightning_rlhf.conf", config_name="import_dataset")
def _app(config: DictConfig) -> None:
    from lightning_rlhf.assembly.import_dataset import import_dataset
    from lightning_rlhf.assembly.target_checks import arguments

    with exit_codes():
        import_dataset(**arguments(config, "lightning_rlhf.assembly.import_dataset.import_dataset"))


def main() -> None:
    """Entry point of the command."""
    run_app(_app)


if __name__ == "__main__":
    main()
