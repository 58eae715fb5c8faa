"""`label`: opens a page on which people choose between answers, and writes what the stages learn from."""

import hydra
from omegaconf import DictConfig

from lightning_rlhf.cli.app import exit_codes, run_app


@hydra.main(version_base="1.3", config_path="pkg://lightning_rlhf.conf", config_name="label")
def _app(config: DictConfig) -> None:
    from lightning_rlhf.assembly.label import label
    from lightning_rlhf.assembly.target_checks import arguments

    with exit_codes():
        label(**arguments(config, "lightning_rlhf.assembly.label.label"))


def main() -> None:
    """Entry point of the command."""
    run_app(_app)


if __name__ == "__main__":
    main()
