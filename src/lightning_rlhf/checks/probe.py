"""A few short responses, drawn under settings that show mistakes which those of the run hide.

Temperature 1 hides whether the scorer divides by the temperature, and responses that reach the length limit hide
where the mask ends.
"""

from typing import Any, NamedTuple

from torch import Tensor

from lightning_rlhf.experience import Scores, Sequences
from lightning_rlhf.ops.masked import masked_mean
from lightning_rlhf.rollout.collect import score_samples
from lightning_rlhf.rollout.engines.engine import RolloutEngine
from lightning_rlhf.rollout.sampled import Sampled, sample
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey

TEMPERATURE = 2.0
"""A flat distribution: a net that is sure of itself, too, draws tokens whose log-probs depend on the temperature."""
_NUM_PROMPTS, _NUM_TOKENS = 4, 8


class Probe(NamedTuple):
    """What came of it."""

    mismatch: float
    """Mean distance of a token's log-probs between sampler and scorer at `TEMPERATURE`, in nats."""
    distance: float
    """The same between actor and reference."""
    stopped: Sampled
    """The responses, drawn again with one of their tokens as the stop token."""
    stop_id: int
    """That token."""


def probe(module: Any, engine: RolloutEngine, sequences: Sequences) -> Probe:
    """Samples, scores, and samples again, by the functions of a rollout; in the engine's phase, on every rank alike.

    Args:
        module: The `PPOModule`.
        engine: Its engine.
        sequences: Some whose prompts are answered.
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

    free = draw(-1)  # is no token, so none of them stops
    # The scores play no part.
    samples = score_samples(module.roles, free, Scores(free.logprobs[:, 0], {}), TEMPERATURE)
    mask = free.sequences.response_mask

    def distance(other: Tensor) -> float:
        return float(masked_mean((samples.logprobs - other).abs(), mask))

    stop_id = int(free.sequences.responses[0, sampling.max_new_tokens // 2])
    return Probe(distance(samples.sampler_logprobs), distance(samples.ref_logprobs), draw(stop_id), stop_id)
