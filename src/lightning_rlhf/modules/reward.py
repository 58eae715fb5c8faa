"""Reward modelling."""

from collections.abc import Callable
from typing import Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric

from lightning_rlhf.data.batches import PairBatch, ScoreBatch
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.distributed.phases import rollout_phase
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.roles import build_trained
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.modules.arguments import remembers_arguments, save_arguments
from lightning_rlhf.modules.checkpoint import Checkpoint, fill_in, leave_out
from lightning_rlhf.modules.finite import check_finite
from lightning_rlhf.modules.optim import Optim, configure, undo_averaging
from lightning_rlhf.modules.stage_module import StageModule
from lightning_rlhf.ops.losses import pairwise_loss


class RewardModule(StageModule):
    """Learns to score whole conversations, from pairs (Bradley-Terry) or from given scores (squared error)."""

    net: ScalarModel

    @remembers_arguments
    def __init__(
        self,
        net: ScalarModel | Callable[[], ScalarModel],
        renderer: Renderer,
        *,
        objective: Literal["pairwise", "regression"] = "pairwise",
        lr: float = 1e-5,
        optim: Optim | None = None,
    ) -> None:
        """Prepares the stage; the model is built in `configure_model`.

        Args:
            net: A scalar model, or a function that builds one.
            renderer: The renderer of the data module; its tokenizer becomes part of the export.
            objective: `pairwise` if the data module provides pairs, `regression` if it provides scores.
            lr: Learning rate.
            optim: Optimizer and schedule.

        Raises:
            UserError: If the learning rate is negative.
        """
        super().__init__()
        if not lr >= 0:  # NaN is refused too
            raise UserError(f"lr={lr}: must not be negative")
        self.builders, self.renderer, self.lr, self.optim = {"net": net}, renderer, lr, optim or Optim()
        self.objective = objective
        self.means: dict[str, MeanMetric] = {}

    def configure_model(self) -> None:
        """Builds the model once."""
        if not hasattr(self, "net"):
            self.net = build_trained(self.builders["net"])
            # The loss of pairs does not depend on the bias. Its gradient would be rounding noise, which Adam would
            # scale up to full steps.
            self.net.bias.requires_grad_(self.objective == "regression")

    def export_nets(self) -> dict[str, torch.nn.Module]:
        """Returns the model to export."""
        return {"model": self.net}

    def training_step(self, batch: PairBatch | ScoreBatch, batch_idx: int) -> Tensor:
        """Computes the share of this micro-batch in the mean loss per pair or answer of the minibatch."""
        losses, scores = self.losses(batch)
        count = batch.num_pairs if isinstance(batch, PairBatch) else batch.num_rows
        loss = (losses * batch.weight).sum() / count
        self.log_share({"loss": loss})
        if isinstance(batch, PairBatch):
            self.log_share({"reward_accuracy": (wins(*scores.chunk(2)) * batch.weight).sum() / count})
        return loss * undo_averaging(self.trainer)

    def losses(self, batch: PairBatch | ScoreBatch) -> tuple[Tensor, Tensor]:
        """Returns the losses (B,) of the pairs or answers, and the scores (2B,) or (B,).

        Args:
            batch: B pairs, or B answers with the scores to learn.
        """
        scores = self.net.scores(batch.input_ids, batch.attention_mask)
        if isinstance(batch, ScoreBatch):
            return (scores - batch.scores).square(), scores
        chosen, rejected = scores.chunk(2)
        return pairwise_loss(chosen, rejected, batch.margin), scores

    def validation_step(self, batch: PairBatch | ScoreBatch, batch_idx: int) -> None:
        """Measures loss and accuracy, and the accuracy of the answers' length alone."""
        with rollout_phase(self.trainer, self):
            losses, scores = self.losses(batch)
        measures = {"loss": losses}
        if isinstance(batch, PairBatch):
            chosen, rejected = scores.chunk(2)
            chosen_length, rejected_length = batch.answer_lengths.float().chunk(2)
            measures |= {
                "reward_accuracy": wins(chosen, rejected),
                "longer_wins_accuracy": wins(chosen_length, rejected_length),
                "shorter_wins_accuracy": wins(rejected_length, chosen_length),
                "reward_margin": chosen - rejected,
            }
        else:
            measures["absolute_error"] = (scores - batch.scores).abs()
        for name, values in measures.items():
            if name not in self.means:
                self.means[name] = MeanMetric().to(self.device)
            self.means[name].update(values, batch.weight)

    def on_validation_epoch_end(self) -> None:
        """Logs the averages over all ranks."""
        metrics = {f"val/{name}": mean.compute() for name, mean in self.means.items()}
        for mean in self.means.values():
            mean.reset()
        check_finite(self.trainer, metrics)
        self.log_dict(metrics, batch_size=1, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Leaves out the weights that never change."""
        save_arguments(self, checkpoint)
        leave_out(checkpoint, self.unchanged())

    def on_load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Accepts a checkpoint without the weights that never change."""
        fill_in(checkpoint, self.unchanged(), self)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Makes one parameter group with weight decay and one without."""
        return configure(self, self.optim, {"model": (self.net, self.lr)})


def wins(first: Tensor, second: Tensor) -> Tensor:
    """Returns 1 where `first` is larger, 0 where it is smaller, and a half for a tie."""
    return ((first > second).float() + (first >= second).float()) / 2
