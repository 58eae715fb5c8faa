"""Samples a few short responses under settings that reveal mistakes which the settings of the run would hide.

A temperature of 1 hides whether the scorer divides by the temperature, and responses that reach the length limit hide
where the mask ends.
"""

from typing import NamedTuple

from torch import Tensor

from lightning_rlhf.experience import Scores, Sequences
from lightning_rlhf.modules.ppo import PPOModule
from lightning_rlhf.ops.masked import masked_mean
from lightning_rlhf.rollout.collect import score_samples
from lightning_rlhf.rollout.engines.engine import RolloutEngine
from lightning_rlhf.rollout.sampled import Sampled, sample
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey

TEMPERATURE = 2.0
"""A high temperature gives a flat distribution, so that even a confident model draws tokens whose log-probs depend on
the temperature."""
_NUM_PROMPTS, _NUM_TOKENS = 4, 8


class Probe(NamedTuple):
    """The result of the probe."""

    mismatch: float
    """Mean absolute difference of a token's log-prob between sampler and scorer at `TEMPERATURE`, in nats."""
    distance: float
    """Mean absolute difference of a token's log-prob between actor and reference at `TEMPERATURE`, in nats."""
    stopped: Sampled
    """The responses, sampled again with one of their tokens as the stop token."""
    stop_id: int
    """Id of that stop token."""


def probe(module: PPOModule, engine: RolloutEngine, sequences: Sequences) -> Probe:
    """Samples, scores, and samples again with the functions of a rollout.

    All ranks call it with the same sequences, in the phase of the engine.

    Args:
        module: The module.
        engine: The rollout engine of the module.
        sequences: Sequences whose prompts the probe answers.
    """
    some = sequences.rows(slice(_NUM_PROMPTS))
    prompts = slice(some.input_ids.shape[1] - some.response_mask.shape[1])
    sampling = Sampling(max_new_tokens=min(_NUM_TOKENS, module.sampling.max_new_tokens), temperature=TEMPERATURE)
    keys = [RandomKey(module.seed, (SAMPLING,), row) for row in range(len(some.input_ids))]

    def draw(*stop_ids: int) -> Sampled:
        return sample(
            engine,
            some.input_ids[:, prompts],
            some.attention_mask[:, prompts],
            keys,
            sampling,
            stop_ids=stop_ids,
        )

    free = draw(-1)  # -1 is not a token, so no response stops
    # `score_samples` needs scores, but the probe does not use them.
    samples = score_samples(module.roles, free, Scores(free.logprobs[:, 0], {}), TEMPERATURE)
    mask = free.sequences.response_mask

    def distance(other: Tensor) -> float:
        return float(masked_mean((samples.logprobs - other).abs(), mask))

    stop_id = int(free.sequences.responses[0, sampling.max_new_tokens // 2])
    return Probe(distance(samples.sampler_logprobs), distance(samples.ref_logprobs), draw(stop_id), stop_id)
