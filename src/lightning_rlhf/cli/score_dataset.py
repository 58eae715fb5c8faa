"""`score-dataset`: lets a chat model judge the answers of a data set."""

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lightning_rlhf.cli.app import exit_codes, run_app


@hydra.main(version_base="1.3", config_path="pkg://lightning_rlhf.conf", config_name="score_dataset")
def _app(config: DictConfig) -> None:
    from lightning_rlhf.assembly.chat_model import arguments_with_llm
    from lightning_rlhf.assembly.score_dataset import score_dataset

    with exit_codes():
        overrides = list(HydraConfig.get().overrides.task)
        score_dataset(**arguments_with_llm(config, "lightning_rlhf.assembly.score_dataset.score_dataset", overrides))


def main() -> None:
    """Entry point of the command."""
    run_app(_app)


if __name__ == "__main__":
    main()
