"""Supervised fine-tuning."""

from collections.abc import Callable

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric
from transformers import PreTrainedModel

from lightning_rlhf.data.batches import PromptBatch, SFTBatch
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.distributed.phases import rollout_phase
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.forward import label_logprobs
from lightning_rlhf.models.roles import build_trained
from lightning_rlhf.modules.arguments import remembers_arguments, save_arguments
from lightning_rlhf.modules.checkpoint import Checkpoint, fill_in, leave_out
from lightning_rlhf.modules.evaluation import load_before, log_evaluation, save_before
from lightning_rlhf.modules.optim import Optim, configure, undo_averaging
from lightning_rlhf.modules.stage_module import StageModule
from lightning_rlhf.rewards import TextReward
from lightning_rlhf.rollout.engines.engine import BuildEngine
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.engines.phase import EngineHandle
from lightning_rlhf.rollout.evaluate import HeldOutAnswers
from lightning_rlhf.rollout.sampling import Sampling


class SFTModule(StageModule):
    """Learns to imitate the answers of demonstrations, by cross-entropy on their tokens, including EOS."""

    net: PreTrainedModel

    @remembers_arguments
    def __init__(
        self,
        net: PreTrainedModel | Callable[[], PreTrainedModel],
        renderer: Renderer,
        *,
        lr: float = 1e-5,
        optim: Optim | None = None,
        evaluation: Sampling | None = None,
        engine: BuildEngine = NativeEngine,
        gold: TextReward | None = None,
        seed: int = 0,
    ) -> None:
        """Prepares the stage; the model is built in `configure_model`.

        Args:
            net: A causal language model, or a function that builds one.
            renderer: Turns conversations into tokens, and tokens into text.
            lr: Learning rate.
            optim: Optimizer and schedule.
            evaluation: Sampling distribution of answers to held-out prompts, if the data module has any.
            engine: Builds the engine that draws the answers.
            gold: The gold metric, for evaluation only.
            seed: Seed of the random numbers of the evaluation.

        Raises:
            UserError: If the learning rate is negative.
        """
        super().__init__()
        if not lr >= 0:  # NaN is refused too
            raise UserError(f"lr={lr}: must not be negative")
        self.builders, self.renderer, self.lr, self.optim = {"net": net}, renderer, lr, optim or Optim()
        self.val_loss = MeanMetric()
        self.engine = EngineHandle(engine)
        self.answers = HeldOutAnswers(evaluation or Sampling(max_new_tokens=128), renderer, gold, seed)

    def configure_model(self) -> None:
        """Builds the model once."""
        if not hasattr(self, "net"):
            self.net = build_trained(self.builders["net"])

    def export_nets(self) -> dict[str, torch.nn.Module]:
        """Returns the model to export."""
        return {"model": self.net}

    def training_step(self, batch: SFTBatch, batch_idx: int) -> Tensor:
        """Computes the share of this micro-batch in the mean loss per token of the minibatch."""
        loss = -label_logprobs(self.net, *batch[:3]).sum() / batch.num_tokens
        self.log_share({"loss": loss})
        return loss * undo_averaging(self.trainer)

    def validation_step(self, batch: SFTBatch | PromptBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Measures the loss on held-out demonstrations, or answers held-out prompts."""
        if isinstance(batch, PromptBatch):
            with self.engine.phase(self.trainer, self, generator=self.net) as engine:
                self.answers.answer(engine, batch)
            return
        with rollout_phase(self.trainer, self):
            logprobs = label_logprobs(self.net, *batch[:3])
        if batch.num_tokens:
            self.val_loss.update(-logprobs.mean(), batch.num_tokens)

    def on_validation_epoch_end(self) -> None:
        """Logs the loss over all ranks, and metrics of the answers."""
        loss = self.val_loss.compute()
        self.val_loss.reset()
        log_evaluation(self, self.answers, {"loss": float(loss), "perplexity": float(loss.exp())})

    def on_save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Leaves out the weights that never change, and adds the answers before training."""
        save_arguments(self, checkpoint)
        leave_out(checkpoint, self.unchanged())
        save_before(self.answers, checkpoint)

    def on_load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Restores the state that `on_save_checkpoint` saved."""
        load_before(self, self.answers, checkpoint)
        fill_in(checkpoint, self.unchanged(), self)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Makes one parameter group with weight decay and one without."""
        return configure(self, self.optim, {"model": (self.net, self.lr)})
