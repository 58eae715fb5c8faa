"""Events that Lightning does not have. A callback that wants them derives from `RLHFCallback`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_rlhf.experience import Rollout


class StepNumbers(NamedTuple):
    """The numbers of a logged optimizer step over all processes; tensors stay on the GPU until somebody reads them."""

    steps: int
    """Optimizer steps since the numbers before."""

    loss: Tensor | None
    """A scalar: the loss of the last minibatch; None if the module has no share `loss`, see `StageModule.log_share`."""
    rates: Mapping[str, float]
    """The learning rate of each role, such as `actor`."""
    steps_per_second: float
    """The same steps by their seconds, without rollouts and evaluations."""
    tokens_per_second: Tensor
    """A scalar: real tokens that these steps have read, by their seconds."""


class RLHFCallback(Callback):
    """A Lightning callback with hooks for logged steps, rollouts, PPO's losses, and answers to held-out prompts."""

    def on_step_numbers(self, trainer: Trainer, module: LightningModule, numbers: StepNumbers) -> None:
        """Called on every rank after each optimizer step that is logged, as `trainer.log_every_n_steps` says.

        Args:
            trainer: The trainer.
            module: The module.
            numbers: The numbers of the steps since the last call.
        """

    def on_rollout_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Called on every rank before the responses of an iteration are sampled.

        Args:
            trainer: The trainer.
            module: The module.
        """

    def on_rollout_end(self, trainer: Trainer, module: LightningModule, rollout: Rollout) -> None:
        """Called on every rank with the samples of all ranks, before the update.

        Args:
            trainer: The trainer.
            module: The module.
            rollout: The responses, with what is known of each.
        """

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
