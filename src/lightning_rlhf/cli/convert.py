"""`convert`: converts Meta's original LLaMA weights to a plain Hugging Face folder."""

import hydra
from omegaconf import DictConfig

from lightning_rlhf.cli.app import exit_codes, run_app


@hydra.main(version_base="1.3", config_path="pkg://lightning_rlhf.conf", config_name="convert")
def _app(config: DictConfig) -> None:
    from lightning_rlhf.assembly.convert import convert
    from lightning_rlhf.assembly.target_checks import arguments

    with exit_codes():
        print(f"model in {convert(**arguments(config, 'lightning_rlhf.assembly.convert.convert'))}")


def main() -> None:
    """Entry point of the command."""
    run_app(_app)


if __name__ == "__main__":
    main()
