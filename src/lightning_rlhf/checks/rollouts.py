"""Checks of PPO's first rollout and first update, before the model has learned anything."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_rlhf.checks.finding import Finding, judged
from lightning_rlhf.checks.probe import TEMPERATURE, probe
from lightning_rlhf.experience import Rollout, Scores, Sequences
from lightning_rlhf.modules.ppo import PPOModule
from lightning_rlhf.ops.masked import masked_mean
from lightning_rlhf.ops.moments import Moments
from lightning_rlhf.ops.rewards import last_token_index
from lightning_rlhf.rollout.collect import Greedy, Samples
from lightning_rlhf.rollout.credit import Credit, to_experience
from lightning_rlhf.rollout.engines.engine import RolloutEngine


def first_rollout(module: PPOModule, engine: RolloutEngine, rollout: Rollout, limit: float) -> Iterator[Finding]:
    """Checks the first rollout. All ranks call it, in the phase of the engine.

    Args:
        module: The module.
        engine: The rollout engine of the module.
        rollout: The rollout of all ranks.
        limit: The largest difference that rounding may cause, see `tolerance`.
    """
    experience = rollout.experience
    mask = experience.sequences.response_mask
    probed = probe(module, engine, experience.sequences)
    right = torch.cat(
        [
            mask_is_right(experience.sequences, rollout.finished, module.renderer.stop_ids),
            mask_is_right(probed.stopped.sequences, probed.stopped.finished, (probed.stop_id,)),
        ]
    )
    yield response_mask(right)
    yield sampler_agrees(rollout.metrics["sampler_mismatch"], probed.mismatch, limit)
    distance = float(masked_mean((experience.old_logprobs - experience.ref_logprobs).abs(), mask))
    yield starts_at_reference(max(distance, probed.distance), limit)
    yield from penalty_punishes(module.credit)
    yield scores_differ(rollout.scores)
    yield responses_end(rollout.finished)


def mask_is_right(sequences: Sequences, finished: Tensor, stop_ids: tuple[int, ...]) -> Tensor:
    """Whether the mask of each response extends up to and including its first stop token.

    Args:
        sequences: Sampled sequences.
        finished: (B,) bool, whether the response ended with a stop token.
        stop_ids: Token ids that end a response.

    Returns:
        (B,) bool.
    """
    mask = sequences.response_mask
    stops = torch.isin(sequences.responses, torch.tensor(stop_ids, device=mask.device)) & mask
    lengths, last = mask.sum(1), last_token_index(mask)
    ends_with_stop = stops.gather(1, last[:, None])[:, 0]
    return (
        (lengths == last + 1)  # the mask has no gaps and is not empty
        & (stops.sum(1) == finished)
        & (ends_with_stop == finished)
        & (finished | (lengths == mask.shape[1]))
    )


def response_mask(right: Tensor) -> Finding:
    """Checks that all response masks are right.

    Args:
        right: (B,) bool from `mask_is_right`.
    """
    return judged(
        "response mask",
        bool(right.all()),
        f"{int(right.sum())} of {len(right)} response masks end with the first stop token, or at the length limit",
        "the mask decides what the model learns: log-probs, rewards and advantages would belong to other tokens",
        severity="error",
    )


def sampler_agrees(mismatch: float, probed: float, limit: float) -> Finding:
    """Checks that the log-probs of the update are those of the distribution from which the engine sampled.

    Args:
        mismatch: Mean absolute difference of a token's log-probs in the rollout, in nats.
        probed: The same difference at `TEMPERATURE`.
        limit: The largest difference that rounding may cause.
    """
    return judged(
        "sampler and scorer",
        max(mismatch, probed) <= limit,
        f"their log-probs of a token differ by {mismatch:.2g} nats, and at temperature {TEMPERATURE:g} by {probed:.2g}",
        "the two differ in temperature, positions or attention mask, so the model would not learn from what it sampled",
        severity="error",
    )


def starts_at_reference(distance: float, limit: float) -> Finding:
    """Checks that the actor starts equal to its reference.

    Args:
        distance: Mean absolute difference of a token's log-probs before the first update, in nats.
        limit: The largest difference that rounding may cause.
    """
    return judged(
        "KL at the start",
        distance <= limit,
        f"log-probs of a token under actor and reference differ by {distance:.2g} nats",
        "the reference must be a copy of the actor's start, in the same dtype and scored in the same way",
        severity="error",
    )


def ratio_is_one(log_ratio: float, limit: float) -> Finding:
    """Checks that the probability ratio is 1 before the first update.

    Args:
        log_ratio: Root mean square of the log-ratios of the tokens of the first minibatch, in nats.
        limit: The largest log-ratio that rounding may cause.
    """
    return judged(
        "ratio at the start",
        log_ratio <= limit,
        f"the log of the probability ratio is {log_ratio:.2g} before the first update",
        "rollout and update see different models: set model.dropout=0, and the same precision for both",
        severity="error",
    )


def scores_differ(scores: Tensor) -> Finding:
    """Checks that the scores are finite, and not all equal.

    Args:
        scores: (B,) scores of the responses.
    """
    finite = bool(scores.isfinite().all())
    low, high = float(scores.min()), float(scores.max())
    return judged(
        "scores",
        finite and low < high,
        f"{low:.3g} for all of {len(scores)} responses" if low == high else f"{low:.3g} to {high:.3g}",
        "the model can learn nothing from equal scores: look at the reward source, or start from a better model"
        if finite
        else "the reward model overflows: load it in bfloat16 or float32",
        severity="warning" if finite else "error",
    )


def responses_end(finished: Tensor) -> Finding:
    """Checks that at least one response ends with a stop token.

    Args:
        finished: (B,) bool, whether the response ended with a stop token.
    """
    return judged(
        "responses end",
        bool(finished.any()),
        f"{finished.float().mean():.0%} of {len(finished)} responses end by themselves, the others at the length limit",
        "raise rollout.sampling.max_new_tokens, or start from a model that has learned to stop",
        severity="warning",
    )


def penalty_punishes(credit: Credit) -> Iterator[Finding]:
    """Checks with made-up log-probs that moving away from the reference lowers the reward, or raises the loss.

    Args:
        credit: The rules for rewards and advantages.
    """
    remedy = "the KL penalty has the wrong sign: it would drive the actor away from the reference"
    if credit.kl_loss is not None:
        logprobs = torch.tensor([[-1.0, -1.0]], requires_grad=True)
        with torch.enable_grad():
            loss = credit.kl_loss(logprobs, torch.tensor([[-1.5, -1.5]])).sum()
        (gradient,) = torch.autograd.grad(loss, logprobs)
        yield judged(
            "KL penalty",
            bool((gradient > 0).all()),
            f"in the loss: at a token 0.5 nats above the reference its gradient is {float(gradient[0, 0]):+.2f}",
            remedy,
            severity="error",
        )
        return
    difference = _mean_reward(credit, 0.5) - _mean_reward(credit, 0.0)
    yield judged(
        "KL penalty",
        difference < 0,
        f"in the reward: a response 1 nat above the reference gets {difference:+.2f} at kl_coef=0.5",
        remedy,
        severity="error",
    )


def _mean_reward(credit: Credit, kl_coef: float) -> float:
    """The mean reward of two-token responses that are more probable under the actor than under the reference."""
    num = 2 * credit.num_samples_per_prompt
    mask = torch.ones(num, 2, dtype=torch.bool)
    zeros, ones = torch.zeros(num, 2), torch.ones(num, dtype=torch.bool)
    samples = Samples(
        Sequences(torch.zeros(num, 2, dtype=torch.long), mask, mask),
        Scores(torch.zeros(num), {}),
        ones,
        zeros - 1,
        torch.zeros(num, 1, dtype=torch.long),
        ones,
        logprobs=zeros - 1,
        entropy=zeros,
        ref_logprobs=zeros - 1.5,
        values=zeros,
        greedy=Greedy(torch.zeros(num), mask.sum(1), ones, torch.zeros(num)),
    )
    _, metrics = to_experience(samples, credit, kl_coef=kl_coef, moments=Moments(), max_length=2)
    return metrics["reward_mean"]
