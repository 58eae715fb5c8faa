"""`export`: exports a checkpoint of any strategy as a plain folder, without a GPU, and pushes it to the hub."""

import hydra
from omegaconf import DictConfig

from lightning_rlhf.cli.app import exit_codes, run_app


@hydra.main(version_base="1.3", config_path="pkg://lightning_rlhf.conf", config_name="export")
def _app(config: DictConfig) -> None:
    from lightning_rlhf.assembly.publish import publish
    from lightning_rlhf.assembly.target_checks import arguments

    with exit_codes():
        print(*publish(**arguments(config, "lightning_rlhf.assembly.publish.publish")), sep="\n")


def main() -> None:
    """Entry point of the command."""
    run_app(_app)


if __name__ == "__main__":
    main()
