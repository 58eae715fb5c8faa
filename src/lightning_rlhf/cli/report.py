"""`report`: draws the card of a run again, compares runs on one page, or follows runs that go on."""

import hydra
from omegaconf import DictConfig

from lightning_rlhf.cli.app import exit_codes, run_app


@hydra.main(version_base="1.3", config_path="pkg://lightning_rlhf.conf", config_name="report")
def _app(config: DictConfig) -> None:
    from lightning_rlhf.assembly.report import report
    from lightning_rlhf.assembly.target_checks import arguments

    with exit_codes():
        report(**arguments(config, "lightning_rlhf.assembly.report.report"))


def main() -> None:
    """Entry point of the command."""
    run_app(_app)


if __name__ == "__main__":
    main()
