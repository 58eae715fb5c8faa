"""`chat`: chats with a trained model, in the terminal or on a page."""

import hydra
from omegaconf import DictConfig

from lightning_rlhf.assembly.chat_settings import ChatSettings
from lightning_rlhf.cli.app import exit_codes, run_app


@hydra.main(version_base="1.3", config_path="pkg://lightning_rlhf.conf", config_name="chat")
def _app(config: DictConfig) -> None:
    with exit_codes():
        # Importing torch takes seconds, so the settings are checked first.
        settings = ChatSettings.of(config)
        from lightning_rlhf.assembly.chat import chat

        chat(settings)


def main() -> None:
    """Entry point of the command."""
    run_app(_app)


if __name__ == "__main__":
    main()
