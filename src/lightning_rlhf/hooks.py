"""Events that Lightning does not have. A callback that wants them derives from `RLHFCallback`."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_rlhf.experience import Rollout


class RLHFCallback(Callback):
    """A Lightning callback with additional hooks for rollouts, PPO's losses, and answers to held-out prompts."""

    def on_rollout_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Called on every rank before the responses of an iteration are sampled."""

    def on_rollout_end(self, trainer: Trainer, module: LightningModule, rollout: Rollout) -> None:
        """Called on every rank with the samples of all ranks, before the update."""

    def on_loss(self, trainer: Trainer, module: LightningModule, batch_idx: int, terms: Mapping[str, Tensor]) -> None:
        """Called on every rank with the terms of PPO's loss on a micro-batch, before the backward pass.

        Args:
            trainer: The trainer.
            module: The module.
            batch_idx: Number of the micro-batch in this iteration, on this rank.
            terms: Scalars, such as `policy_loss` and `approx_kl`, by the names under which `train/` logs them. A loss
                is the share of this micro-batch in the loss of its minibatch; any other term is the mean over this
                micro-batch.
        """

    def on_evaluation_end(
        self, trainer: Trainer, module: LightningModule, iteration: int, samples: list[dict[str, Any]]
    ) -> None:
        """Called on every rank with all answers to the held-out prompts, one dict for each prompt.

        Args:
            trainer: The trainer.
            module: The module.
            iteration: Number of iterations (or epochs) of training before the answers; 0 before the first.
            samples: One dict for each prompt. Its keys are `row` (index of the prompt in the held-out data), `prompt`,
                `response`, `length` (tokens), `finish_reason`, `weights_version` (number of optimizer steps of the
                weights that answered), and, where they are known, `score`, `kl` (nats) and `gold`.
        """


def notify(trainer: Trainer, hook: str, *args: object) -> None:
    """Calls a hook of every `RLHFCallback`. Lightning itself dispatches only its own hooks."""
    # The Trainer's connector sets `callbacks`, which a type checker cannot see.
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, RLHFCallback):
            getattr(callback, hook)(trainer, trainer.lightning_module, *args)
