"""Metrics of a rollout."""

from lightning_rlhf.experience import Experience
from lightning_rlhf.ops.advantages import explained_variance
from lightning_rlhf.ops.kl import kl_estimates
from lightning_rlhf.ops.masked import masked_mean, masked_sum
from lightning_rlhf.rollout.collect import Samples


def rollout_metrics(samples: Samples, experience: Experience) -> dict[str, float]:
    """Computes means over responses; measurements of tokens are summed over each response first.

    Args:
        samples: Samples of all ranks.
        experience: The experience that was computed from the samples.

    Returns:
        Metrics by name without a prefix, such as `score_mean`; docs/metrics.md explains each of them.
    """
    mask, scores = samples.sequences.response_mask, samples.scores
    kl = kl_estimates(samples.logprobs, samples.ref_logprobs)
    metrics = {
        "score_mean": scores.total.mean(),
        "score_std": scores.total.std(correction=0),
        # Of the responses that the part has a score for.
        **{f"score/{name}": part.nanmean() for name, part in scores.parts.items() if not part.isnan().all()},
        "kl": masked_sum(kl.k1, mask, dim=1).mean(),
        "kl_k2": masked_sum(kl.k2, mask, dim=1).mean(),
        "kl_k3": masked_sum(kl.k3, mask, dim=1).mean(),
        "entropy": masked_mean(samples.entropy, mask),
        "response_length": mask.sum(1).float().mean(),
        "eos_rate": samples.finished.float().mean(),
        # Where the actor did not score a response, both are the sampler's, and say nothing about the actor.
        "sampler_mismatch": masked_mean(
            (samples.logprobs - samples.sampler_logprobs).abs(), mask & samples.scored[:, None]
        ),
        "rescored_rate": samples.scored.float().mean(),
    }
    if samples.exact_kl is not None:
        metrics["kl_exact"] = masked_sum(samples.exact_kl, mask, dim=1).mean()
    if samples.greedy is not None:
        metrics["greedy_score_mean"] = (samples.greedy.scores + samples.greedy.token_scores).mean()
    if samples.values is not None and experience.returns is not None:
        metrics |= {
            "value_mean": masked_mean(samples.values, mask),
            "return_mean": masked_mean(experience.returns, mask),
            "explained_variance": explained_variance(samples.values, experience.returns, mask),
        }
    return {name: float(value) for name, value in metrics.items()}
