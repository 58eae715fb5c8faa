"""Proximal policy optimization."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from transformers import PreTrainedModel

from lightning_rlhf.data.batches import PromptBatch
from lightning_rlhf.data.prompts import Prompt, collate_prompts, iteration_prompts
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import raise_problems
from lightning_rlhf.experience import Experience, Minibatch, Rollout, Sequences
from lightning_rlhf.hooks import notify
from lightning_rlhf.models.roles import Net, SeparateRoles, build
from lightning_rlhf.modules.optim import Optim, configure, undo_averaging
from lightning_rlhf.ops.losses import ppo_policy_loss, ppo_value_loss
from lightning_rlhf.ops.masked import masked_sum
from lightning_rlhf.rewards import TextReward
from lightning_rlhf.rollout.collect import collect, gather_samples, score_samples, to_experience
from lightning_rlhf.rollout.dataset import RolloutDataset
from lightning_rlhf.rollout.evaluate import HeldOutAnswers, Sample, decode, summarize
from lightning_rlhf.rollout.sampler import Sampled, Sampling
from lightning_rlhf.seeding import SAMPLING, uniforms
from lightning_rlhf.strategies.phases import rollout_phase


class PPOModule(LightningModule):
    """Maximises a reward near a reference: a Lightning epoch is a PPO iteration, a batch is a PPO minibatch.

    Source: Ziegler et al. (2019); Stiennon et al. (2020); Ouyang et al., "Training language models to follow
    instructions with human feedback" (2022). Minibatches: Schulman et al. (2017), algorithm 1.
    """

    roles: SeparateRoles

    def __init__(
        self,
        *,
        actor: PreTrainedModel | Callable[[], PreTrainedModel],
        critic: Net,
        reference: PreTrainedModel | Callable[[], PreTrainedModel],
        reward: Net | TextReward,
        renderer: Renderer,
        sampling: Sampling,
        evaluation: Sampling | None = None,
        gold: TextReward | None = None,
        optim: Optim | None = None,
        lr: float = 1e-6,
        critic_lr: float = 1e-5,
        rollout_batch_size: int = 128,
        rollout_micro_batch_size: int = 64,
        minibatch_size: int = 32,
        ppo_epochs: int = 4,
        kl_coef: float = 0.05,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        clip_range: float = 0.2,
        clip_range_value: float = 0.2,
        vf_coef: float = 0.1,
        ent_coef: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Prepares the stage; the nets are built in `configure_model`.

        Args:
            actor: The net to train, or a function that builds it; starts as a fine-tuned model.
            critic: Estimates what score is to be expected, for each token; a `ScalarModel` or its builder.
            reference: What the actor must stay near; a second copy of the actor's start.
            reward: A trained `ScalarModel` or its builder, or a `TextReward`.
            renderer: Makes tokens of prompts, and text of tokens.
            sampling: How responses are drawn in rollouts.
            evaluation: How held-out prompts are answered; as in rollouts if None.
            gold: The true aim, for evaluation only.
            optim: Optimizer and schedule.
            lr: Learning rate of the actor.
            critic_lr: Learning rate of the critic.
            rollout_batch_size: Responses of an iteration, over all processes.
            rollout_micro_batch_size: Responses that one process samples and scores at a time.
            minibatch_size: Responses behind one optimizer step, over all processes and accumulated parts.
            ppo_epochs: Passes over the responses of an iteration.
            kl_coef: Weight of the KL penalty in the rewards.
            gamma: Discount.
            gae_lambda: Of the advantage estimate.
            clip_range: The probability ratio is clipped to 1 ± this.
            clip_range_value: How far a value may move within an iteration.
            vf_coef: Weight of the value loss.
            ent_coef: Weight of the entropy bonus.
            seed: Of prompts, sampling and the order of minibatches.

        Raises:
            UserError: If a value is impossible; all of them at once.
        """
        super().__init__()
        sampling.check_for_rollout()
        raise_problems(
            f"{name}={value}: must {rule}"
            for name, value, holds, rule in [
                ("lr", lr, lr >= 0, "not be negative"),
                ("critic_lr", critic_lr, critic_lr >= 0, "not be negative"),
                ("rollout_batch_size", rollout_batch_size, rollout_batch_size > 0, "be positive"),
                ("rollout_micro_batch_size", rollout_micro_batch_size, rollout_micro_batch_size > 0, "be positive"),
                ("minibatch_size", minibatch_size, minibatch_size > 0, "be positive"),
                ("ppo_epochs", ppo_epochs, ppo_epochs > 0, "be positive"),
                ("kl_coef", kl_coef, kl_coef >= 0, "not be negative"),
                ("gamma", gamma, 0 <= gamma <= 1, "lie in [0, 1]"),
                ("gae_lambda", gae_lambda, 0 <= gae_lambda <= 1, "lie in [0, 1]"),
                ("clip_range", clip_range, 0 < clip_range < 1, "lie in (0, 1)"),
                ("clip_range_value", clip_range_value, clip_range_value > 0, "be positive"),
                ("vf_coef", vf_coef, vf_coef >= 0, "not be negative"),
            ]
            if not holds
        )
        # In a dict, since a net that is an attribute would be a submodule at once, and a second time as a role.
        self.builders = {"actor": actor, "critic": critic, "reference": reference}
        if not isinstance(reward, TextReward):
            self.builders["reward"] = reward
        self.text_reward = reward if isinstance(reward, TextReward) else None
        self.renderer, self.sampling, self.optim = renderer, sampling, optim or Optim()
        self.lr, self.critic_lr, self.seed = lr, critic_lr, seed
        self.rollout_batch_size, self.minibatch_size = rollout_batch_size, minibatch_size
        self.rollout_micro_batch_size, self.ppo_epochs = rollout_micro_batch_size, ppo_epochs
        self.kl_coef, self.gamma, self.gae_lambda = kl_coef, gamma, gae_lambda
        self.clip_range, self.clip_range_value = clip_range, clip_range_value
        self.vf_coef, self.ent_coef = vf_coef, ent_coef
        self.answers = HeldOutAnswers(evaluation or sampling, renderer, gold, seed)
        self.answers_before: list[Sample] | None = None

    def configure_model(self) -> None:
        """Builds the nets, once; frozen ones too, so that sharded strategies shard them."""
        if not hasattr(self, "roles"):
            self.roles = SeparateRoles(**{role: build(net) for role, net in self.builders.items()})

    def export_nets(self) -> dict[str, torch.nn.Module]:
        """What an export holds."""
        return {"model": self.roles.generator()}

    def rollout_dataset(self, prompts: list[Prompt]) -> RolloutDataset:
        """Samples responses to the prompts, and reads them in minibatches: what the data module trains on."""
        return RolloutDataset(
            partial(self.collect_rollout, prompts),
            rollout_batch_size=self.rollout_batch_size,
            minibatch_size=self.minibatch_size,
            ppo_epochs=self.ppo_epochs,
            trainer=self.trainer,
            seed=self.seed,
        )

    def collect_rollout(self, train_prompts: list[Prompt], iteration: int) -> Experience:
        """Samples and scores the responses of an iteration; every rank gets those of all ranks."""
        notify(self.trainer, "on_rollout_start")
        start = time.perf_counter()
        prompts = iteration_prompts(train_prompts, self.rollout_batch_size, self.seed, iteration)
        everything = collate_prompts(prompts, list(range(len(prompts))))
        per_rank = self.rollout_batch_size // self.trainer.world_size
        mine = slice(self.global_rank * per_rank, (self.global_rank + 1) * per_rank)
        # A row of numbers for each response of the global batch, whichever rank samples it.
        numbers = uniforms((len(prompts), self.sampling.max_new_tokens), self.seed, SAMPLING, iteration)

        def score(sequences: Sequences, rows: slice) -> Tensor:
            texts, columns = everything.texts[mine][rows], everything.columns[mine][rows]
            return self.score(sequences, texts, columns)

        with rollout_phase(self.trainer, self.roles):
            samples = collect(
                self.roles,
                everything.input_ids[mine].to(self.device),
                everything.attention_mask[mine].to(self.device),
                self.sampling,
                stop_ids=self.renderer.stop_ids,
                uniforms=numbers[mine].to(self.device),
                micro_batch_size=self.rollout_micro_batch_size,
                score=score,
            )
            samples = gather_samples(samples)
            experience, metrics = to_experience(
                samples, kl_coef=self.kl_coef, gamma=self.gamma, gae_lambda=self.gae_lambda
            )
        mask = samples.sequences.response_mask
        rollout = Rollout(
            iteration=iteration,
            experience=experience,
            prompts=everything.texts,
            responses=decode(Sampled(samples.sequences, samples.finished), self.renderer),
            scores=samples.scores,
            kl=masked_sum(samples.logprobs - samples.ref_logprobs, mask, dim=1),
            finished=samples.finished,
            metrics=metrics,
            seconds=time.perf_counter() - start,
        )
        notify(self.trainer, "on_rollout_end", rollout)
        return experience

    def score(self, sequences: Sequences, prompts: list[str], columns: list[dict[str, Any]]) -> Tensor:
        """Scores (B,) of sampled sequences by the reward source."""
        scores = self.roles.scores(sequences.rows(slice(None)))
        if scores is not None:
            return scores
        assert self.text_reward is not None
        responses = decode(Sampled(sequences, torch.zeros(len(prompts))), self.renderer)
        return torch.tensor(self.text_reward(prompts, responses, columns), device=sequences.input_ids.device)

    def training_step(self, batch: Minibatch, batch_idx: int) -> Tensor:
        """This micro-batch's share of the minibatch's loss."""
        old, mask = batch.experience, batch.experience.sequences.response_mask
        new = self.roles.actor_stats(
            old.sequences, temperature=self.sampling.temperature, entropy_grad=self.ent_coef != 0
        )
        policy = ppo_policy_loss(
            new.logprobs,
            old.old_logprobs,
            old.advantages,
            mask,
            clip_range=self.clip_range,
            num_tokens=batch.num_tokens,
        )
        value = ppo_value_loss(
            self.roles.values(old.sequences),
            old.old_values,
            old.returns,
            mask,
            clip_range_value=self.clip_range_value,
            num_tokens=batch.num_tokens,
        )
        entropy = masked_sum(new.entropy, mask) / batch.num_tokens
        scale = undo_averaging(self.trainer)
        self.log_dict(
            {
                "train/policy_loss": policy.loss * scale,
                "train/value_loss": value.loss * scale,
                "train/entropy": entropy * scale,
                "train/approx_kl": policy.approx_kl,
                "train/clip_fraction": policy.clip_fraction,
                "train/value_clip_fraction": value.clip_fraction,
            },
            on_step=False,
            on_epoch=True,
            sync_dist=True,
            batch_size=len(mask),
        )
        return (policy.loss + self.vf_coef * value.loss - self.ent_coef * entropy) * scale

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Answers held-out prompts, and scores the answers."""
        sequences, finished = self.answers.answer(self.roles.generator(), batch)
        scores = self.score(sequences, batch.texts, batch.columns)
        samples = score_samples(self.roles, sequences, finished, self.sampling.temperature, scores)
        kl = masked_sum(samples.logprobs - samples.ref_logprobs, sequences.response_mask, dim=1)
        self.answers.add(batch, "score", scores)
        self.answers.add(batch, "kl", kl)

    def on_validation_epoch_end(self) -> None:
        """Logs what the answers are like; those before training are kept to compare with."""
        samples = self.answers.finish()
        metrics = {f"val/{name}": value for name, value in summarize(samples, self.answers_before).items()}
        if self.trainer.sanity_checking:
            self.answers_before = samples
            # Lightning drops what is logged during its sanity check; here that is the state before training.
            for logger in self.trainer.loggers:
                logger.log_metrics(metrics | {"epoch": -1}, step=0)
            notify(self.trainer, "on_evaluation_end", 0, samples)
        else:
            self.log_dict(metrics, batch_size=1, sync_dist=True)
            notify(self.trainer, "on_evaluation_end", self.current_epoch + 1, samples)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Groups for actor and critic, each with its own learning rate."""
        rates = {"actor": self.lr, "critic": self.critic_lr}
        return configure(self, self.optim, {name: (net, rates[name]) for name, net in self.roles.trainable().items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what changes; frozen nets are not written again and again: they come from where they came from."""
        frozen = tuple(f"roles.{name}." for name in self.roles.frozen())
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith(frozen)}
        checkpoint["kl_coef"], checkpoint["answers_before"] = self.kl_coef, self.answers_before

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores what `on_save_checkpoint` kept, and fills in the frozen nets so that loading stays strict."""
        self.kl_coef, self.answers_before = checkpoint["kl_coef"], checkpoint["answers_before"]
        frozen = tuple(f"roles.{name}." for name in self.roles.frozen())
        checkpoint["state_dict"] |= {k: v for k, v in self.state_dict().items() if k.startswith(frozen)}
