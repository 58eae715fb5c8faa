"""The rollout of a PPO iteration: prompts, samples, scores, credit."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_rlhf.data.prompts import Prompt, iteration_prompts
from lightning_rlhf.distributed.phases import whole
from lightning_rlhf.experience import Experience, Rollout
from lightning_rlhf.hooks import notify
from lightning_rlhf.modules.finite import check_finite
from lightning_rlhf.ops.masked import masked_sum
from lightning_rlhf.ops.moments import update_moments
from lightning_rlhf.rollout.collect import collect, gather_samples, said_of
from lightning_rlhf.rollout.credit import to_experience
from lightning_rlhf.rollout.metrics import rollout_metrics
from lightning_rlhf.rollout.texts import decode
from lightning_rlhf.seeding import SAMPLING, RandomKey

if TYPE_CHECKING:
    from lightning_rlhf.modules.ppo import PPOModule


def collect_rollout(module: "PPOModule", train_prompts: Sequence[Prompt], iteration: int) -> Experience:
    """Samples and scores the responses of an iteration; every rank gets those of all ranks.

    Args:
        module: The module, in training.
        train_prompts: To sample from.
        iteration: Counted from 0.

    Raises:
        UserError: If a log-prob, value or score is not finite.
    """
    notify(module.trainer, "on_rollout_start")
    start = time.perf_counter()
    # Here and not at the end of an iteration, which does not come again for a run that goes on from there.
    if module.refresh_reference_every and iteration and iteration % module.refresh_reference_every == 0:
        with whole(module.trainer, module.roles, write=True):
            module.roles.refresh_reference()
    group = module.credit.num_samples_per_prompt
    prompts = iteration_prompts(train_prompts, module.rollout_batch_size, group, module.seed, iteration)
    per_rank = module.rollout_batch_size // module.trainer.world_size
    mine = slice(module.global_rank * per_rank, (module.global_rank + 1) * per_rank)
    # Each response of the global batch has numbers of its own, whichever rank samples it.
    keys = [RandomKey(module.seed, (SAMPLING, iteration), row) for row in prompts.indices]
    with module.engine.phase(module.trainer, module.roles, generator=module.roles.generator()) as engine:
        samples = collect(
            engine,
            module.roles,
            prompts.rows(mine).to(module.device),
            module.sampling,
            module.renderer,
            keys=keys[mine],
            micro_batch_size=module.rollout_micro_batch_size,
            exact_kl=module.exact_kl,
            greedy=module.credit.estimator.greedy,
        )
        samples = gather_samples(samples)
        check_finite(module.trainer, said_of(samples))
        module.moments = update_moments(module.moments, samples.scores.whole)
        experience, judged = to_experience(
            samples,
            module.credit,
            kl_coef=module.kl_coef,
            moments=module.moments,
            max_length=module.sampling.max_new_tokens,
        )
    mask = samples.sequences.response_mask
    rollout = Rollout(
        iteration=iteration,
        experience=experience,
        prompts=prompts.texts,
        responses=decode(samples.sequences, module.renderer),
        scores=samples.scores.total,
        kl=masked_sum(samples.logprobs - samples.ref_logprobs, mask, dim=1),
        finished=samples.finished,
        metrics=rollout_metrics(samples, experience) | judged | {"kl_coef": module.kl_coef},
        seconds=time.perf_counter() - start,
    )
    notify(module.trainer, "on_rollout_end", rollout)
    return experience
