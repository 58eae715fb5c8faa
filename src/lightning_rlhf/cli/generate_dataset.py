"""`generate-dataset`: makes a data set by letting two roles of a chat model talk to each other."""

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lightning_rlhf.cli.app import exit_codes, run_app


@hydra.main(version_base="1.3", config_path="pkg://lightning_rlhf.conf", config_name="generate_dataset")
def _app(config: DictConfig) -> None:
    from lightning_rlhf.assembly.chat_model import arguments_with_llm
    from lightning_rlhf.assembly.generate_dataset import generate_dataset

    with exit_codes():
        overrides = list(HydraConfig.get().overrides.task)
        target = "lightning_rlhf.assembly.generate_dataset.generate_dataset"
        generate_dataset(**arguments_with_llm(config, target, overrides))


def main() -> None:
    """Entry point of the command."""
    run_app(_app)


if __name__ == "__main__":
    main()
