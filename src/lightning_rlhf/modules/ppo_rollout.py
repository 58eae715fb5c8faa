"""The rollouts of PPO: prompts, samples, scores and credit of an iteration, and the data set that is made of them."""

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from lightning_rlhf.data.adapting import adapted
from lightning_rlhf.data.budget import Load
from lightning_rlhf.data.kinds import Conversation
from lightning_rlhf.data.prompts import Prompt, iteration_prompts
from lightning_rlhf.data.rows import Rows
from lightning_rlhf.distributed.collectives import gather_objects
from lightning_rlhf.distributed.phases import whole
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Experience, Rollout
from lightning_rlhf.hooks import notify
from lightning_rlhf.modules.finite import check_finite
from lightning_rlhf.ops.masked import masked_sum
from lightning_rlhf.ops.moments import update_moments
from lightning_rlhf.rollout.canary import check_first_ratio
from lightning_rlhf.rollout.collect import collect, gather_samples, said_of
from lightning_rlhf.rollout.credit import to_experience
from lightning_rlhf.rollout.dataset import RolloutDataset
from lightning_rlhf.rollout.dropping import in_place, kept_rows
from lightning_rlhf.rollout.metrics import rollout_metrics
from lightning_rlhf.rollout.nested import rows_at
from lightning_rlhf.rollout.ptx import PTX
from lightning_rlhf.seeding import SAMPLING, RandomKey

if TYPE_CHECKING:
    from lightning_rlhf.modules.ppo import PPOModule


def within_rollout(minibatch_size: int, rollout_batch_size: int) -> int:
    """The size of a minibatch, which has at most all responses of a rollout."""
    if minibatch_size > rollout_batch_size:
        adapted(f"minibatch_size={minibatch_size}: a rollout, and so a minibatch, has {rollout_batch_size} responses")
    return min(minibatch_size, rollout_batch_size)


def make_rollout_dataset(
    module: "PPOModule", prompts: Sequence[Prompt], ptx: Rows[Conversation] | None
) -> RolloutDataset:
    """Makes the data set of the update, which collects a rollout at the start of each iteration.

    Args:
        module: The module, which is attached to its trainer.
        prompts: Prompts to sample responses to.
        ptx: Texts to mix into the updates, if any.

    Raises:
        UserError: If the batch sizes do not divide, the trainer accumulates too few parts for the limit of tokens, or
            `ptx_coef` is set and there are no texts.
    """
    group = module.credit.num_samples_per_prompt
    if module.rollout_batch_size % group:
        raise UserError(
            f"rollout_batch_size={module.rollout_batch_size} is not divisible by num_samples_per_prompt={group}: "
            "change one of them"
        )
    if module.ptx_coef and ptx is None:
        raise UserError(f"ptx_coef={module.ptx_coef}, but there are no texts to mix in: give ptx_path")
    mixed = None
    if module.ptx_coef and ptx is not None:
        mixed = PTX(ptx, minibatch_size=module.ptx_minibatch_size, trainer=module.trainer, seed=module.seed)
    dataset = RolloutDataset(
        partial(collect_rollout, module, prompts),
        rollout_batch_size=module.rollout_batch_size,
        minibatch_size=module.minibatch_size,
        ppo_epochs=module.ppo_epochs,
        max_length=module.sampling.max_new_tokens,
        trainer=module.trainer,
        seed=module.seed,
        ptx=mixed,
        max_tokens=module.max_tokens_per_micro_batch,
    )
    if module.max_tokens_per_micro_batch is not None:
        dataset.shares.check_budget(update_loads(module, prompts, ptx))
    return dataset


def update_loads(module: "PPOModule", prompts: Sequence[Prompt], ptx: Rows[Conversation] | None) -> list[Load]:
    """The rows of an update: a minibatch of responses may be as long as the longest prompt and response allow.

    Args:
        module: The module.
        prompts: Prompts to sample responses to.
        ptx: Texts to mix into the updates, if any. They are shared in order, so each may be as long as the longest.
    """
    lengths = prompts.numbers("length") if isinstance(prompts, Rows) else [len(prompt.ids) for prompt in prompts]
    longest, size = max(lengths) + module.sampling.max_new_tokens, module.minibatch_size
    loads = [Load(size, np.full(size, longest))]
    if module.ptx_coef and ptx is not None:
        size = module.ptx_minibatch_size
        loads.append(Load(size, np.full(size, max(ptx.numbers("length"))), in_order=True))
    return loads


def collect_rollout(module: "PPOModule", train_prompts: Sequence[Prompt], iteration: int) -> Experience:
    """Samples and scores the responses of an iteration, and gives every rank the responses of all ranks.

    Args:
        module: The module, during training.
        train_prompts: Prompts to sample responses to.
        iteration: Number of the iteration, counted from 0.

    Raises:
        UserError: If a log-prob, value or score is not finite.
    """
    notify(module.trainer, "on_rollout_start")
    start = time.perf_counter()
    # The reference is refreshed here rather than at the end of an iteration, because a run that resumes after that end
    # would not refresh it again.
    if module.refresh_reference_every and iteration and iteration % module.refresh_reference_every == 0:
        with whole(module.trainer, module.roles, write=True):
            module.roles.refresh_reference()
    group = module.credit.num_samples_per_prompt
    prompts = iteration_prompts(train_prompts, module.rollout_batch_size, group, module.seed, iteration)
    per_rank = module.rollout_batch_size // module.trainer.world_size
    mine = slice(module.global_rank * per_rank, (module.global_rank + 1) * per_rank)
    # Each response of the global batch has its own random numbers, whichever rank samples it.
    keys = [RandomKey(module.seed, (SAMPLING, iteration), row) for row in prompts.indices]
    with module.engine.phase(module.trainer, module.roles, generator=module.roles.generator()) as engine:
        collected = collect(
            engine,
            module.roles,
            prompts.rows(mine).to(module.device),
            module.sampling,
            module.renderer,
            keys=keys[mine],
            micro_batch_size=module.rollout_micro_batch_size,
            max_tokens=module.max_tokens_per_micro_batch,
            exact_kl=module.exact_kl,
            greedy=module.credit.estimator.greedy,
        )
        samples, responses = gather_samples(collected.samples), gather_objects(collected.responses)
        kept = kept_rows(samples, group)
        samples = rows_at(samples, kept)
        check_finite(module.trainer, said_of(samples))
        if not engine.shares_weights:
            check_first_ratio(samples)
        module.moments = update_moments(module.moments, samples.scores.whole)
        experience, judged = to_experience(
            samples,
            module.credit,
            kl_coef=module.kl_coef,
            moments=module.moments,
            max_length=module.sampling.max_new_tokens,
        )
    mask = samples.sequences.response_mask
    drops = samples.scores.dropped is not None
    dropped = {"dropped_rate": 1 - len(kept) / len(responses)} if drops else {}
    rollout = Rollout(
        iteration=iteration,
        experience=experience,
        prompts=[prompts.texts[row] for row in kept],
        responses=[responses[row] for row in kept],
        scores=samples.scores.total,
        kl=masked_sum(samples.logprobs - samples.ref_logprobs, mask, dim=1),
        finished=samples.finished,
        metrics=rollout_metrics(samples, experience) | judged | dropped | {"kl_coef": module.kl_coef},
        seconds=time.perf_counter() - start,
        messages=[prompts.columns[row]["messages"] for row in kept],
        rescored=samples.scored,
    )
    notify(module.trainer, "on_rollout_end", rollout)
    return in_place(experience, kept, len(responses))
