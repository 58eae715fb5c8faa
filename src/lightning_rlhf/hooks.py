"""Events that Lightning does not know: callbacks that want them derive from `RLHFCallback`."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_rlhf.experience import Rollout


class RLHFCallback(Callback):
    """A Lightning callback that also hears about rollouts, PPO's losses, and answers to held-out prompts."""

    def on_rollout_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Called on every rank before an iteration's responses are sampled."""

    def on_rollout_end(self, trainer: Trainer, module: LightningModule, rollout: Rollout) -> None:
        """Called on every rank with the samples of all ranks, before the update."""

    def on_loss(self, trainer: Trainer, module: LightningModule, batch_idx: int, terms: Mapping[str, Tensor]) -> None:
        """Called on every rank with what PPO's loss of a micro-batch is made of, before the backward pass.

        Args:
            trainer: The trainer.
            module: The module.
            batch_idx: Number of the micro-batch in this iteration, on this rank.
            terms: Scalars, such as `policy_loss` and `approx_kl`, by the names under which `train/` logs them. Those of
                losses are the share of this micro-batch in its minibatch, the others are its own means.
        """

    def on_evaluation_end(
        self, trainer: Trainer, module: LightningModule, iteration: int, samples: list[dict[str, Any]]
    ) -> None:
        """Called on every rank with all answers to the held-out prompts, one dict for each prompt.

        Args:
            trainer: The trainer.
            module: The module.
            iteration: Iterations (or epochs) of training behind the answers; 0 before the first.
            samples: Keys `row` (place of the prompt in the held-out data), `prompt`, `response`, `length` (tokens),
                `finish_reason`, `weights_version` (optimizer steps behind the weights that answered), and where known
                `score`, `kl` (nats), `gold`.
        """


def notify(trainer: Trainer, hook: str, *args: Any) -> None:
    """Calls a hook of every `RLHFCallback`; Lightning's own dispatch only knows Lightning's hooks."""
    # `callbacks` is set by the Trainer's connector, which type checkers do not see.
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, RLHFCallback):
            getattr(callback, hook)(trainer, trainer.lightning_module, *args)
