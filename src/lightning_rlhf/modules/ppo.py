"""Proximal policy optimization (PPO), and related algorithms without a critic."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from lightning_rlhf.data.batches import PromptBatch
from lightning_rlhf.data.kinds import Conversation
from lightning_rlhf.data.prompts import Prompt
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.rows import Rows
from lightning_rlhf.distributed.clipping import clip_by_role
from lightning_rlhf.hooks import notify
from lightning_rlhf.models.roles import Net, SeparateRoles
from lightning_rlhf.models.shared import Shared, SharedRoles
from lightning_rlhf.modules.arguments import remembers_arguments, save_arguments
from lightning_rlhf.modules.checkpoint import Checkpoint, beside_adapters, fill_in, leave_out
from lightning_rlhf.modules.evaluation import load_before, log_evaluation, save_before
from lightning_rlhf.modules.optim import Optim, configure, undo_averaging
from lightning_rlhf.modules.ppo_loss import PPOLoss
from lightning_rlhf.modules.ppo_roles import build_roles, role_builders, without_own_net
from lightning_rlhf.modules.ppo_rollout import make_rollout_dataset, within_rollout
from lightning_rlhf.modules.ppo_values import check_values
from lightning_rlhf.modules.stage_module import StageModule
from lightning_rlhf.ops.masked import masked_sum
from lightning_rlhf.ops.moments import Moments
from lightning_rlhf.rewards import TextReward
from lightning_rlhf.rewards.build import RewardSource
from lightning_rlhf.rollout.collect import score_samples
from lightning_rlhf.rollout.credit import Credit
from lightning_rlhf.rollout.dataset import Minibatch, RolloutDataset
from lightning_rlhf.rollout.drawing import to_answers
from lightning_rlhf.rollout.engines.engine import BuildEngine
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.engines.phase import EngineHandle
from lightning_rlhf.rollout.evaluate import HeldOutAnswers
from lightning_rlhf.rollout.sampling import Sampling


class PPOModule(StageModule):
    """Maximises a reward while the actor stays near a reference.

    A Lightning epoch is a PPO iteration, and a batch is a part of a PPO minibatch.
    Source: Ziegler et al. (2019); Stiennon et al. (2020); Ouyang et al., "Training language models to follow
    instructions with human feedback" (2022). The minibatches follow Schulman et al. (2017), algorithm 1.
    """

    roles: SeparateRoles | SharedRoles
    sampling: Sampling

    @remembers_arguments
    def __init__(
        self,
        *,
        actor: PreTrainedModel | Callable[[], PreTrainedModel] | Shared,
        reward: RewardSource,
        renderer: Renderer,
        sampling: Sampling,
        reference: PreTrainedModel | Callable[[], PreTrainedModel] | None = None,
        critic: Net | None = None,
        evaluation: Sampling | None = None,
        engine: BuildEngine | None = None,
        gold: TextReward | None = None,
        optim: Optim | None = None,
        lr: float = 1e-6,
        critic_lr: float = 1e-5,
        rollout_batch_size: int = 128,
        rollout_micro_batch_size: int = 64,
        minibatch_size: int = 32,
        max_tokens_per_micro_batch: int | None = None,
        ppo_epochs: int = 4,
        credit: Credit | None = None,
        loss: PPOLoss | None = None,
        kl_coef: float = 0.05,
        exact_kl: bool = False,
        ptx_coef: float = 0.0,
        ptx_minibatch_size: int | None = None,
        refresh_reference_every: int = 0,
        clip_gradients_by: Literal["role", "all"] = "role",
        seed: int = 0,
    ) -> None:
        """Prepares the stage; the models are built in `configure_model`.

        Args:
            actor: The model to train, or a function that builds it, usually a fine-tuned model; or one model for all
                roles.
            reward: Source of the scores: a trained `ScalarModel` or its builder, a `TextReward`, a `WeightedSum`, see
                `rewards.build.as_reward`.
            renderer: Turns prompts into tokens, and tokens into text.
            sampling: Sampling distribution of the rollouts.
            reference: The model that the actor must stay near: a second copy of the initial actor. It is None if one
                model plays all roles.
            critic: Predicts the score at each token: a `ScalarModel` or its builder. It is not built if the advantage
                estimator needs no critic, and is None if one model plays all roles.
            evaluation: Sampling distribution of answers to held-out prompts; None stands for `sampling`.
            engine: Builds the engine that draws responses in rollouts and evaluation; None stands for a `NativeEngine`
                that samples `rollout_micro_batch_size` responses at a time.
            gold: The gold metric, for evaluation only.
            optim: Optimizer and schedule.
            lr: Learning rate of the actor.
            critic_lr: Learning rate of the critic.
            rollout_batch_size: Number of responses of an iteration, over all processes.
            rollout_micro_batch_size: Number of responses that one process scores at a time.
            minibatch_size: Number of responses of an optimizer step, over all processes and parts; at most a rollout.
            max_tokens_per_micro_batch: Limit of the tokens that a process scores or updates on at a time, with padding,
                which the trainer's `accumulate_grad_batches` has to allow; None for none.
            ppo_epochs: Number of passes over the responses of an iteration.
            credit: Settings of credit assignment: advantage estimator, group size, KL penalty, reward shaping.
            loss: Settings of the loss: policy loss, aggregation, weights of value loss and entropy bonus.
            kl_coef: Weight of the KL penalty.
            exact_kl: Whether to log the KL over the whole vocabulary too, which takes two more passes over a rollout.
            ptx_coef: Weight of the loss on texts that are mixed into the updates (PPO-ptx).
            ptx_minibatch_size: Number of texts for each optimizer step; None stands for `minibatch_size`.
            refresh_reference_every: Number of iterations after which the actor becomes the reference; 0 for never.
            clip_gradients_by: Norms that the trainer's `gradient_clip_val` bounds: those of actor and critic separately
                (role), or that of both together (all).
            seed: Seed of the prompts, of sampling, and of the order of minibatches.

        Raises:
            UserError: If a value is invalid.
        """
        super().__init__()
        sampling.check_for_rollout()
        self.renderer = renderer
        self.sampling = sampling
        self.optim = optim or Optim()
        self.lr = lr
        self.critic_lr = critic_lr
        self.rollout_batch_size = rollout_batch_size
        self.rollout_micro_batch_size = rollout_micro_batch_size
        self.minibatch_size = minibatch_size
        self.max_tokens_per_micro_batch = max_tokens_per_micro_batch
        self.ppo_epochs = ppo_epochs
        self.kl_coef = kl_coef
        self.exact_kl = exact_kl
        self.ptx_coef = ptx_coef
        self.refresh_reference_every = refresh_reference_every
        self.clip_gradients_by = clip_gradients_by
        self.seed = seed
        self.moments = Moments()
        check_values(self)
        self.minibatch_size = within_rollout(minibatch_size, rollout_batch_size)
        self.ptx_minibatch_size = ptx_minibatch_size or self.minibatch_size
        self.credit = credit or Credit()
        self.loss = loss or PPOLoss()
        self.credit.shaping.check_limit(sampling.max_new_tokens)
        # Builders are kept in dicts, because a model that is an attribute would become a submodule, in addition to its
        # place among the roles.
        self.builders = role_builders(actor, reference, critic, self.credit)
        self.reward = {"reward": reward}
        self.engine = EngineHandle(engine or partial(NativeEngine, max_rows=rollout_micro_batch_size))
        self.answers = HeldOutAnswers(evaluation or sampling, renderer, gold, seed)

    def configure_model(self) -> None:
        """Builds the models once, including the frozen ones, so that sharded strategies shard them too."""
        if not hasattr(self, "roles"):
            self.roles = build_roles(self.builders, self.reward["reward"], self.renderer, self.credit)

    def export_nets(self) -> dict[str, nn.Module]:
        """Returns the model to export."""
        return {"model": self.roles.exported()}

    def learners(self) -> list[nn.Module]:
        """Returns the models of the roles that learn; on a shared backbone two roles pass through one model."""
        return [self.roles.nets()[role] for role in self.roles.trainable()]

    def absent_nets(self) -> dict[str, str]:
        """Returns the roles that have no model of their own, with the reason."""
        return without_own_net(self.roles, self.credit)

    def rollout_dataset(self, prompts: Sequence[Prompt], ptx: Rows[Conversation] | None) -> RolloutDataset:
        """Makes the data set of sampled responses; see `make_rollout_dataset`. The data module calls this method."""
        return make_rollout_dataset(self, prompts, ptx)

    def training_step(self, batch: Minibatch, batch_idx: int) -> Tensor:
        """Computes the share of this micro-batch in the loss of the minibatch."""
        sequences = batch.experience.sequences
        # Values come first, because the backward pass runs in reverse order: it frees the logits of the actor before
        # any block is computed again.
        values = self.roles.values(sequences)
        temperature, bonus = self.sampling.temperature, self.loss.ent_coef != 0
        new = self.roles.actor_stats(sequences, temperature=temperature, entropy=bonus)
        loss, sums, means = self.loss(new, values, batch, self.credit.kl_loss)
        if batch.ptx is not None:
            sums["ptx_loss"] = -self.roles.label_logprobs(*batch.ptx[:3]).sum() / batch.ptx.num_tokens
            loss = loss + self.ptx_coef * sums["ptx_loss"]
        self.log_share({"loss": loss})
        notify(self.trainer, "on_loss", batch_idx, {name: term.detach() for name, term in {**sums, **means}.items()})
        scale = undo_averaging(self.trainer)
        log = partial(self.log_dict, on_step=False, on_epoch=True, sync_dist=True)
        # Parts may have different numbers of rows, and a sum over them weighs all parts alike.
        log({f"train/{name}": value * scale for name, value in sums.items()}, batch_size=1)
        log({f"train/{name}": value for name, value in means.items()}, batch_size=len(sequences.input_ids))
        return loss * scale

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Answers held-out prompts and scores the answers."""
        with self.engine.phase(self.trainer, self.roles, generator=self.roles.generator()) as engine:
            sampled = self.answers.answer(engine, batch)
            scores = self.roles.scores(to_answers(sampled.sequences, batch, self.renderer))
            samples = score_samples(self.roles, sampled, scores, self.sampling.temperature)
        kl = masked_sum(samples.logprobs - samples.ref_logprobs, sampled.sequences.response_mask, dim=1)
        self.answers.add(batch, "score", scores.total, scores.dropped)
        self.answers.add(batch, "kl", kl)

    def on_validation_epoch_end(self) -> None:
        """Logs metrics of the answers."""
        log_evaluation(self, self.answers, {})

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Makes parameter groups for actor and critic, each with its own learning rate."""
        rates = {"actor": self.lr, "critic": self.critic_lr}
        return configure(self, self.optim, {name: (net, rates[name]) for name, net in self.roles.trainable().items()})

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips actor and critic separately, so that a large critic gradient does not shorten the actor's step."""
        alone = self.clip_gradients_by == "role" and self.credit.estimator.critic
        if alone and gradient_clip_val and gradient_clip_algorithm != "value":
            clip_by_role(self.trainer, optimizer, gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Leaves out the weights that never change, and adds the other state of the module."""
        save_arguments(self, checkpoint)
        leave_out(checkpoint, self.unchanged())
        save_before(self.answers, checkpoint)
        checkpoint.update(kl_coef=self.kl_coef, moments=list(self.moments))

    def on_load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Restores the state that `on_save_checkpoint` saved."""
        load_before(self, self.answers, checkpoint)
        self.kl_coef = checkpoint["kl_coef"]
        self.moments = Moments(*checkpoint["moments"])
        fill_in(checkpoint, self.unchanged(), self)

    def unchanged(self) -> tuple[str, ...]:
        """Returns the prefixes of weights that never change; those of a refreshed reference do change."""
        prefixes = (*(f"roles.{name}." for name in self.roles.frozen()), *beside_adapters(self))
        refreshed = {"reference"} if self.refresh_reference_every else set()
        return tuple(prefix for prefix in prefixes if refreshed.isdisjoint(prefix.split(".")))
