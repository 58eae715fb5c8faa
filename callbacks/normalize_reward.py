"""Gives a reward model mean 0 and standard deviation 1 on samples of the reference policy."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback
from tqdm import tqdm
from transformers import PreTrainedModel

from lightning_rlhf.data.batches import chunks
from lightning_rlhf.data.prompts import Prompt, collate_prompts
from lightning_rlhf.distributed.collectives import gather_rows
from lightning_rlhf.distributed.phases import place_generator, rollout_phase, whole
from lightning_rlhf.experience import Sequences
from lightning_rlhf.rollout.engines.engine import BuildEngine
from lightning_rlhf.rollout.engines.padded import PaddedEngine
from lightning_rlhf.rollout.sampled import sample
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey

log = logging.getLogger(__name__)


class NormalizeReward(Callback):
    """Folds the normalisation into the head when training ends, so that an export carries it.

    Then `kl_coef` means the same for every reward model. Source: Ziegler et al. (2019), section 2.1. The processes
    share the samples, which do not depend on their number. The policy is there only while it samples: whole in each
    process, as the net that samples in PPO is, or block by block where that one is.
    """

    def __init__(
        self,
        reference: Callable[[], PreTrainedModel],
        sampling: Sampling,
        num_samples: int = 256,
        batch_size: int = 64,
        seed: int = 0,
        engine: BuildEngine = PaddedEngine,
    ) -> None:
        """Takes what to sample.

        Args:
            reference: Builds the policy that PPO will start from.
            sampling: How responses are drawn.
            num_samples: Responses to draw, one for each of the first training prompts.
            batch_size: Responses that one process draws and scores at a time.
            seed: Of the random numbers.
            engine: Builds what draws the responses.
        """
        self.engine = engine
        self.reference, self.sampling, self.num_samples = reference, sampling, num_samples
        self.batch_size, self.seed = batch_size, seed

    def on_fit_start(self, trainer: Any, pl_module: object) -> None:
        """Lets a run that goes on from its end come to its end once more.

        Lightning would leave `on_train_end` out, since no epoch is left, and the export would have the raw scale. Some
        strategies read the checkpoint later than this, so all runs get one more epoch here.
        """
        if trainer.max_epochs >= 0:
            trainer.fit_loop.max_epochs += 1

    def on_train_start(self, trainer: Any, pl_module: object) -> None:
        """Takes the epoch back, before one begins."""
        if trainer.max_epochs >= 0:
            trainer.fit_loop.max_epochs -= 1

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Samples, scores, and folds."""
        prompts = trainer.datamodule.reference_prompts(self.num_samples)
        drawn = self._draw(trainer, pl_module, prompts)
        with rollout_phase(trainer, pl_module.net):
            scores = [pl_module.net.scores(part.input_ids, part.attention_mask) for part in drawn]
        all_scores = gather_rows(torch.cat(scores))[: len(prompts)]
        with whole(trainer, pl_module.net, write=True):
            pl_module.net.normalize(all_scores)
        if trainer.is_global_zero:
            mean, std = float(all_scores.mean()), float(all_scores.std())
            log.info("reward normalised on %d samples: was mean %.3f, std %.3f", len(prompts), mean, std)

    def _draw(self, trainer: Any, pl_module: Any, prompts: Sequence[Prompt]) -> list[Sequences]:
        """This process's share of the samples, a few rows at a time; the policy is gone afterwards."""
        mine = share_of_rows(len(prompts), trainer.global_rank, trainer.world_size)
        policy = self.reference()
        engine = self.engine(policy, pl_module.device)
        # While the policy is whole, on the CPU; of the version that it is given nobody asks.
        engine.update_weights(policy.state_dict().items(), version=0)
        if engine.shares_weights:
            place_generator(trainer, policy)
        steps = list(chunks(len(mine), self.batch_size))
        quiet = None if trainer.is_global_zero else True
        drawn = []
        with rollout_phase(trainer, policy):
            for rows in tqdm(steps, desc="sampling to normalise the reward", delay=2, leave=False, disable=quiet):
                batch = collate_prompts([prompts[place] for place in mine[rows]], [])
                sampled = sample(
                    engine,
                    batch.input_ids.to(pl_module.device),
                    batch.attention_mask.to(pl_module.device),
                    # Each prompt has numbers of its own, whichever rank samples it.
                    [RandomKey(self.seed, (SAMPLING,), row) for row in mine[rows]],
                    self.sampling,
                    stop_ids=pl_module.renderer.stop_ids,
                )
                drawn.append(sampled.sequences)
        engine.release()
        return drawn


def share_of_rows(count: int, rank: int, processes: int) -> list[int]:
    """The rows of a process; the last one again where they do not divide, since all processes take equally many.

    Args:
        count: Rows of all processes.
        rank: Of the process.
        processes: How many there are.
    """
    each = -(-count // processes)
    return [min(place, count - 1) for place in range(rank * each, (rank + 1) * each)]
