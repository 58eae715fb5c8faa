"""Gives a reward model mean 0 and standard deviation 1 on samples of the reference policy."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback
from tqdm import tqdm
from transformers import PreTrainedModel

from lightning_rlhf.data.prompts import collate_prompts
from lightning_rlhf.rollout.collect import chunks
from lightning_rlhf.rollout.sampler import Sampling, sample
from lightning_rlhf.seeding import SAMPLING, uniforms
from lightning_rlhf.strategies.phases import rollout_phase, whole

log = logging.getLogger(__name__)


class NormalizeReward(Callback):
    """Folds the normalisation into the head when training ends, so that an export carries it.

    Then `kl_coef` means the same for every reward model. Source: Ziegler et al. (2019), section 2.1. Every rank draws
    the same samples, so the ranks stay equal.
    """

    def __init__(
        self,
        reference: Callable[[], PreTrainedModel],
        sampling: Sampling,
        num_samples: int = 256,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        """Takes what to sample.

        Args:
            reference: Builds the policy that PPO will start from.
            sampling: How responses are drawn.
            num_samples: Responses to draw, one for each of the first training prompts.
            batch_size: Responses drawn at a time.
            seed: Of the random numbers.
        """
        self.reference, self.sampling, self.num_samples = reference, sampling, num_samples
        self.batch_size, self.seed = batch_size, seed

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Lets a run that goes on from its end come to its end once more.

        Lightning would leave `on_train_end` out, since no epoch is left, and the export would have the raw scale.
        """
        if trainer.ckpt_path is not None:
            trainer.fit_loop.max_epochs += 1

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Gives back the number of epochs, before one begins."""
        if trainer.ckpt_path is not None:
            trainer.fit_loop.max_epochs -= 1

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Samples, scores, and folds."""
        prompts = trainer.datamodule.reference_prompts(self.num_samples)
        policy: Any = self.reference()
        policy.to(pl_module.device)
        numbers = uniforms((len(prompts), self.sampling.max_new_tokens), self.seed, SAMPLING)
        scores = []
        # The policy is whole on every rank, so nothing has to be gathered for it.
        with rollout_phase(trainer, pl_module.net, policy):
            steps = list(chunks(len(prompts), self.batch_size))
            quiet = None if trainer.is_global_zero else True
            for rows in tqdm(steps, desc="sampling to normalise the reward", delay=2, leave=False, disable=quiet):
                batch = collate_prompts(prompts[rows], [])
                sequences = sample(
                    policy,
                    batch.input_ids.to(pl_module.device),
                    batch.attention_mask.to(pl_module.device),
                    self.sampling,
                    stop_ids=pl_module.renderer.stop_ids,
                    uniforms=numbers[rows].to(pl_module.device),
                ).sequences
                scores.append(pl_module.net.scores(sequences.input_ids, sequences.attention_mask))
        all_scores = torch.cat(scores)
        with whole(trainer, pl_module.net, write=True):
            pl_module.net.normalize(all_scores)
        if trainer.is_global_zero:
            mean, std = float(all_scores.mean()), float(all_scores.std())
            log.info("reward normalised on %d samples: was mean %.3f, std %.3f", len(prompts), mean, std)
