"""`serve-reward`: serves a trained reward model over HTTP, for `reward=http` and for any other client."""

import hydra
from omegaconf import DictConfig

from lightning_rlhf.cli.app import exit_codes, run_app


@hydra.main(version_base="1.3", config_path="pkg://lightning_rlhf.conf", config_name="serve_reward")
def _app(config: DictConfig) -> None:
    from lightning_rlhf.assembly.serve_reward import serve
    from lightning_rlhf.assembly.target_checks import arguments

    with exit_codes():
        settings = arguments(config, "lightning_rlhf.assembly.serve_reward.serve")
        serve(**settings)


def main() -> None:
    """Entry point of the command."""
    run_app(_app)


if __name__ == "__main__":
    main()
