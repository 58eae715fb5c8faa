"""A model that ends its responses at each token with the same probability."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from lightning_rlhf.benchmark.ending import end_with_probability
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.engines.engine import Request
from lightning_rlhf.rollout.engines.padded import PaddedEngine
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey

EOS = 5
SMALL_WEIGHTS = {"gpt2": "initializer_range", "llama": "initializer_range", "gptj": "initializer_range"}


def ending(make_source: Callable[..., ModelSource], family: str, probability: float) -> PreTrainedModel:
    net = load_causal_lm(make_source(family, **{SMALL_WEIGHTS[family]: 0.02})).eval()
    end_with_probability(net, EOS, probability, seed=1)
    return net


@pytest.mark.parametrize("family", SMALL_WEIGHTS)
@pytest.mark.parametrize("probability", [0.5, 1 / 32])
def test_each_token_ends_the_response_with_the_given_probability(
    make_source: Callable[..., ModelSource], family: str, probability: float
) -> None:
    net = ending(make_source, family, probability)
    ids = torch.randint(64, (16, 20), generator=torch.manual_seed(3))
    with torch.no_grad():
        found = net(ids).logits.softmax(-1)[..., EOS]
    # The other logits hardly differ between contexts, because the weights are small.
    assert found.mean() == pytest.approx(probability, rel=0.02)
    assert found.min() > 0.94 * probability
    assert found.max() < 1.06 * probability


def test_a_bias_that_the_head_has_already_stays(make_source: Callable[..., ModelSource]) -> None:
    net = load_causal_lm(make_source("gptj"))
    with torch.no_grad():
        net.lm_head.bias.copy_(torch.arange(64.0))
    end_with_probability(net, EOS, 0.25, seed=1)
    others = [token for token in range(64) if token != EOS]
    assert net.lm_head.bias[others].tolist() == [float(token) for token in others]


def test_an_engine_draws_lengths_of_that_mean(make_source: Callable[..., ModelSource]) -> None:
    net = ending(make_source, "gpt2", 1 / 4)
    engine = PaddedEngine(net, torch.device("cpu"), micro_batch_size=500)
    requests = [Request([7, 8], RandomKey(1, (SAMPLING, 0), row)) for row in range(500)]
    drawn = engine.generate(requests, Sampling(max_new_tokens=40), stop_ids=(EOS,))
    # The standard deviation of a length is sqrt(12) = 3.5, that of the mean of 500 is 0.155.
    assert sum(len(one.ids) for one in drawn) / 500 == pytest.approx(4, abs=0.5)
    assert all(one.ids[-1] == EOS for one in drawn if one.finish_reason == "stop")


def test_the_global_generator_is_left_alone(make_source: Callable[..., ModelSource]) -> None:
    net = load_causal_lm(make_source("gpt2"))
    before = torch.get_rng_state()
    end_with_probability(net, EOS, 0.25, seed=1)
    assert torch.equal(before, torch.get_rng_state())
