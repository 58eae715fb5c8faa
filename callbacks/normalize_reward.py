"""Scales a reward model to mean 0 and standard deviation 1 on samples of the reference policy."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedModel

from lightning_rlhf.console import console, three_decimals
from lightning_rlhf.data.batches import chunks
from lightning_rlhf.data.prompts import Prompt, collate_prompts
from lightning_rlhf.distributed.collectives import gather_rows
from lightning_rlhf.distributed.phases import place_generator, rollout_phase, whole
from lightning_rlhf.experience import Sequences
from lightning_rlhf.rollout.engines.engine import BuildEngine
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.sampled import sample
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.rollout.texts import decoder
from lightning_rlhf.seeding import SAMPLING, RandomKey

log = logging.getLogger(__name__)


class NormalizeReward(Callback):
    """Folds the normalisation into the head when training ends, so that an export contains it.

    This gives `kl_coef` the same meaning for every reward model. Source: Ziegler et al. (2019), section 2.1. The
    processes share the samples, which do not depend on their number. The policy is loaded only while it samples, as a
    whole in each process or gathered block by block, like the model that samples in PPO.
    """

    def __init__(
        self,
        reference: Callable[[], PreTrainedModel],
        sampling: Sampling,
        num_samples: int = 256,
        batch_size: int = 64,
        seed: int = 0,
        engine: BuildEngine = NativeEngine,
    ) -> None:
        """Stores what to sample.

        Args:
            reference: Builds the policy that PPO will start from.
            sampling: How responses are drawn.
            num_samples: The number of responses, one for each of the first training prompts.
            batch_size: The number of responses that one process draws and scores at a time.
            seed: The seed of the random numbers.
            engine: Builds the engine that draws the responses.
        """
        self.engine = engine
        self.drawn: list[Sequences] | None = None
        self.reference, self.sampling, self.num_samples = reference, sampling, num_samples
        self.batch_size, self.seed = batch_size, seed

    def on_fit_start(self, trainer: Any, pl_module: object) -> None:
        """Makes a run that resumes from its end reach its end again.

        Otherwise Lightning would skip `on_train_end`, because no epoch is left, and the export would have the raw
        scale. Some strategies read the checkpoint later than this, so every run gets one more epoch here.
        """
        if trainer.max_epochs >= 0:
            trainer.fit_loop.max_epochs += 1

    def on_train_start(self, trainer: Any, pl_module: object) -> None:
        """Removes the additional epoch before the first epoch begins."""
        if trainer.max_epochs >= 0:
            trainer.fit_loop.max_epochs -= 1

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Samples responses, scores them, and folds the normalisation into the head."""
        scores = self._scores(trainer, pl_module)
        with whole(trainer, pl_module.net, write=True):
            pl_module.net.normalize(scores)
        if trainer.is_global_zero:
            mean, std = three_decimals(float(scores.mean())), three_decimals(float(scores.std()))
            log.info("reward normalised on %d samples: was mean %s, std %s", len(scores), mean, std)

    @contextmanager
    def normalized(self, trainer: Any, pl_module: Any) -> Iterator[None]:
        """Context in which the head contains the normalisation, for an export during training."""
        net, scores = pl_module.net, self._scores(trainer, pl_module)
        with whole(trainer, net, write=True):
            before = net.head.weight.detach().clone(), net.bias.detach().clone()
            net.normalize(scores)
        try:
            yield
        finally:
            with torch.no_grad(), whole(trainer, net, write=True):
                net.head.weight.copy_(before[0])
                net.bias.copy_(before[1])

    def _scores(self, trainer: Any, pl_module: Any) -> Tensor:
        """The scores of all samples, which are drawn once."""
        prompts = trainer.datamodule.reference_prompts(self.num_samples)
        if self.drawn is None:
            self.drawn = self._draw(trainer, pl_module, prompts)
        with rollout_phase(trainer, pl_module.net):
            scores = [pl_module.net.scores(part.input_ids, part.attention_mask) for part in self.drawn]
        return gather_rows(torch.cat(scores))[: len(prompts)]

    def _draw(self, trainer: Any, pl_module: Any, prompts: Sequence[Prompt]) -> list[Sequences]:
        """Draws this process's share of the samples, a few rows at a time, and releases the policy afterwards."""
        mine = share_of_rows(len(prompts), trainer.global_rank, trainer.world_size)
        policy = self.reference()
        engine = self.engine(policy, pl_module.device)
        # The policy is still whole and on the CPU here. The version of the weights is not used.
        engine.update_weights(policy.state_dict().items(), version=0)
        if engine.shares_weights:
            place_generator(trainer, policy)
        steps = list(chunks(len(mine), self.batch_size))
        quiet = not (trainer.is_global_zero and console.is_terminal)
        drawn = []
        with rollout_phase(trainer, policy):
            for rows in track(
                steps, "sampling to normalise the reward", console=console, transient=True, disable=quiet
            ):
                batch = collate_prompts([prompts[place] for place in mine[rows]], [])
                sampled = sample(
                    engine,
                    batch.input_ids.to(pl_module.device),
                    batch.attention_mask.to(pl_module.device),
                    # Each prompt has its own random numbers, whichever rank samples it.
                    [RandomKey(self.seed, (SAMPLING,), row) for row in mine[rows]],
                    self.sampling,
                    stop_ids=pl_module.renderer.stop_ids,
                    decode=decoder(pl_module.renderer),
                )
                drawn.append(sampled.sequences)
        engine.release()
        return drawn


def share_of_rows(count: int, rank: int, processes: int) -> list[int]:
    """Returns the rows of a process; the last row is repeated so that all processes have equally many.

    Args:
        count: The number of rows of all processes.
        rank: The rank of the process.
        processes: The number of processes.
    """
    each = -(-count // processes)
    return [min(place, count - 1) for place in range(rank * each, (rank + 1) * each)]
