"""Direct preference optimization."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric
from transformers import PreTrainedModel

from lightning_rlhf.data.batches import PairBatch, PromptBatch
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.distributed.phases import rollout_phase
from lightning_rlhf.errors import raise_problems
from lightning_rlhf.experience import Sequences
from lightning_rlhf.models.forward import response_logprobs
from lightning_rlhf.models.roles import Net, build_policies, build_trained
from lightning_rlhf.modules.arguments import remembers_arguments, save_arguments
from lightning_rlhf.modules.checkpoint import Checkpoint, beside_adapters, fill_in, leave_out
from lightning_rlhf.modules.evaluation import load_before, log_evaluation, save_before
from lightning_rlhf.modules.optim import Optim, configure, undo_averaging
from lightning_rlhf.modules.reward import wins
from lightning_rlhf.modules.stage_module import StageModule
from lightning_rlhf.ops.preference import PREFERENCE_LOSSES
from lightning_rlhf.ops.sequences import used_columns
from lightning_rlhf.rewards import TextReward
from lightning_rlhf.rollout.engines.engine import BuildEngine
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.engines.phase import EngineHandle
from lightning_rlhf.rollout.evaluate import HeldOutAnswers
from lightning_rlhf.rollout.sampling import Sampling


class DPOModule(StageModule):
    """Learns preferences directly from pairs of answers, without a reward model and without sampling.

    Source: Rafailov et al., "Direct Preference Optimization: Your Language Model is Secretly a Reward Model" (2023).
    """

    actor: PreTrainedModel
    reference: PreTrainedModel

    @remembers_arguments
    def __init__(
        self,
        *,
        actor: PreTrainedModel | Callable[[], PreTrainedModel],
        reference: PreTrainedModel | Callable[[], PreTrainedModel] | None = None,
        renderer: Renderer,
        loss: Literal["sigmoid", "ipo"] = "sigmoid",
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        reference_free: bool = False,
        lr: float = 1e-6,
        optim: Optim | None = None,
        evaluation: Sampling | None = None,
        engine: BuildEngine = NativeEngine,
        gold: TextReward | None = None,
        seed: int = 0,
    ) -> None:
        """Prepares the stage; the models are built in `configure_model`.

        Args:
            actor: The model to train, or a function that builds it; usually a fine-tuned model.
            reference: The model that the actor must stay near: a second copy of the initial actor, in the same dtype.
            renderer: Turns conversations into tokens, and tokens into text.
            loss: `sigmoid` is the loss of DPO; `ipo` regresses to a finite margin.
            beta: Strength of the reference: with a larger beta the actor stays nearer to it.
            label_smoothing: Assumed share of pairs with a wrong label.
            reference_free: Whether to assume that all answers are equally likely under the reference, which is not
                built then.
            lr: Learning rate.
            optim: Optimizer and schedule.
            evaluation: Sampling distribution of answers to held-out prompts, if the data module has any.
            engine: Builds the engine that draws the answers.
            gold: The gold metric, for evaluation only.
            seed: Seed of the random numbers of the evaluation.

        Raises:
            UserError: If values are invalid; the message names all of them.
            ValueError: If actor and reference are the same object.
        """
        super().__init__()
        raise_problems(
            f"{name}={value}: must {rule}"
            for name, value, holds, rule in [
                ("loss", loss, loss in PREFERENCE_LOSSES, f"be one of {', '.join(PREFERENCE_LOSSES)}"),
                ("beta", beta, beta > 0, "be positive"),
                ("label_smoothing", label_smoothing, 0 <= label_smoothing < 0.5, "lie in [0, 0.5)"),
                ("reference", reference, reference_free or reference is not None, "be given unless reference_free"),
                ("lr", lr, lr >= 0, "not be negative"),
            ]
            if not holds
        )
        if actor is reference and isinstance(actor, torch.nn.Module):
            raise ValueError("actor and reference are the same object: no answer would ever gain; pass a copy")
        # Builders are kept in a dict, because a model that is an attribute would become a submodule at once.
        self.builders: dict[str, Net] = {"actor": actor}
        if reference is not None and not reference_free:
            self.builders["reference"] = reference
        self.renderer, self.lr, self.optim = renderer, lr, optim or Optim()
        self.loss = partial(PREFERENCE_LOSSES[loss], beta=beta, label_smoothing=label_smoothing)
        self.beta = beta
        self.means: dict[str, MeanMetric] = {}
        self.engine = EngineHandle(engine)
        self.answers = HeldOutAnswers(evaluation or Sampling(max_new_tokens=128), renderer, gold, seed)

    def configure_model(self) -> None:
        """Builds the models once, including the frozen reference, so that sharded strategies shard it too.

        Raises:
            UserError: If actor and reference have different dtypes.
        """
        if not hasattr(self, "actor"):
            if "reference" in self.builders:
                self.actor, self.reference = build_policies(self.builders["actor"], self.builders["reference"])
            else:
                self.actor = build_trained(self.builders["actor"])

    def export_nets(self) -> dict[str, torch.nn.Module]:
        """Returns the model to export."""
        return {"model": self.actor}

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """Computes the share of this micro-batch in the mean loss per pair of the minibatch."""
        losses, measures = self.losses(batch)
        logged = {"loss": losses} | {name: measures[name] for name in ("reward_accuracy", "reward_margin")}
        shares = {name: (values * batch.weight).sum() / batch.num_pairs for name, values in logged.items()}
        self.log_share(shares)
        return shares["loss"] * undo_averaging(self.trainer)

    def losses(self, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the losses (B,) of the pairs, and measurements (B,) by name; ignores the margins of the data.

        Args:
            batch: B pairs.
        """
        sequences = as_sequences(batch)
        logprobs = response_logprobs(self.actor, sequences)
        ref_logprobs = self.ref_logprobs(sequences)
        (chosen, rejected), (ref_chosen, ref_rejected) = logprobs.chunk(2), ref_logprobs.chunk(2)
        chosen_reward, rejected_reward = (self.beta * (logprobs - ref_logprobs)).detach().chunk(2)
        measures = {
            "reward_accuracy": wins(chosen_reward, rejected_reward),
            "reward_margin": chosen_reward - rejected_reward,
            "chosen_reward": chosen_reward,
            "rejected_reward": rejected_reward,
            "chosen_logprob": chosen.detach(),
        }
        return self.loss(chosen, rejected, ref_chosen, ref_rejected), measures

    def start_distance(self, batch: object) -> float | None:
        """Measures the distance without the dropout that DPO allows in training."""
        if not isinstance(batch, PairBatch) or "reference" not in self.builders:
            return None
        with rollout_phase(self.trainer, self):
            sequences = as_sequences(batch)
            difference = response_logprobs(self.actor, sequences) - self.ref_logprobs(sequences)
        return float((difference / batch.answer_lengths).abs().mean())

    @torch.no_grad()
    def ref_logprobs(self, sequences: Sequences) -> Tensor:
        """Returns log-probs (B,) of whole responses under the reference, in nats; 0 if there is no reference.

        Args:
            sequences: B prompts with their responses.
        """
        if "reference" not in self.builders:
            return torch.zeros(len(sequences.input_ids), device=self.device)
        return response_logprobs(self.reference, sequences)

    def validation_step(self, batch: PairBatch | PromptBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Measures accuracy on held-out pairs and that of the answers' length alone, or answers held-out prompts."""
        if isinstance(batch, PromptBatch):
            with self.engine.phase(self.trainer, self, generator=self.actor) as engine:
                sequences = self.answers.answer(engine, batch).sequences.rows(slice(None))
                if "reference" in self.builders:
                    kl = response_logprobs(self.actor, sequences) - self.ref_logprobs(sequences)
                    self.answers.add(batch, "kl", kl)
            return
        with rollout_phase(self.trainer, self):
            losses, measures = self.losses(batch)
        chosen_length, rejected_length = batch.answer_lengths.float().chunk(2)
        measures |= {
            "loss": losses,
            "longer_wins_accuracy": wins(chosen_length, rejected_length),
            "shorter_wins_accuracy": wins(rejected_length, chosen_length),
        }
        for name, values in measures.items():
            if name not in self.means:
                self.means[name] = MeanMetric().to(self.device)
            self.means[name].update(values, batch.weight)

    def on_validation_epoch_end(self) -> None:
        """Logs averages over all ranks, and metrics of the answers."""
        metrics = {name: float(mean.compute()) for name, mean in self.means.items()}
        for mean in self.means.values():
            mean.reset()
        log_evaluation(self, self.answers, metrics)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Makes one parameter group with weight decay and one without."""
        return configure(self, self.optim, {"model": (self.actor, self.lr)})

    def on_save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Leaves out the weights that never change, and adds the answers before training."""
        save_arguments(self, checkpoint)
        leave_out(checkpoint, self.unchanged())
        save_before(self.answers, checkpoint)

    def on_load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Restores the state that `on_save_checkpoint` saved."""
        load_before(self, self.answers, checkpoint)
        fill_in(checkpoint, self.unchanged(), self)

    def unchanged(self) -> tuple[str, ...]:
        """Returns the prefixes of weights that never change: the reference's, and frozen weights beside adapters."""
        return ("reference.", *beside_adapters(self))


def as_sequences(batch: PairBatch) -> Sequences:
    """Splits the conversations (2B, T) into prompts and responses.

    The response columns begin at the first token of the answer that begins first. An answer is at the end of its row
    (`cut_at_end`), so its length says where it begins.
    """
    ends = batch.attention_mask.sum(1, keepdim=True)
    positions = torch.arange(batch.input_ids.shape[1], device=ends.device)
    is_answer = batch.attention_mask & (positions >= ends - batch.answer_lengths[:, None])
    return Sequences(batch.input_ids, batch.attention_mask, is_answer[:, used_columns(is_answer).start :])
