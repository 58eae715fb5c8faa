"""The contract of every engine; a new engine is added to `ENGINES`."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec

import pytest
import torch
from support import OwnWeights
from torch import Tensor
from torch.testing import assert_close
from transformers import PreTrainedModel

from lightning_rlhf.data.batches import pad
from lightning_rlhf.models.forward import response_stats
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.engines.engine import Completion, Request, RolloutEngine, in_order
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.engines.padded import PaddedEngine
from lightning_rlhf.rollout.engines.vllm_in_process import VllmEngine
from lightning_rlhf.rollout.sampled import sample
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey

# Each engine answers a few requests at a time, and gets more than that.
ENGINES = {
    "native": partial(NativeEngine, max_rows=4, prefill_tokens=12),
    "padded": partial(PaddedEngine, micro_batch_size=4),
    "padded, with weights of its own": partial(OwnWeights, micro_batch_size=4),
    "vllm": partial(VllmEngine, cache_gib=0.05, max_sequences=4),
}
NEEDS = {"vllm": pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM: make test-vllm")}

PROMPTS = [[11, 12, 13, 14], [7], [21, 7, 2], [3, 4], [5, 6, 5, 6, 5], [60, 61], [9], [7], [7], [33, 34, 35]]
REQUESTS = [Request(prompt, RandomKey(1, (SAMPLING, 0), row)) for row, prompt in enumerate(PROMPTS)]
STOPS = (5, 17, 30, 44)
# The distribution is so flat that some responses stop early, some late, and some not at all.
SAMPLING_SETTINGS = Sampling(max_new_tokens=10, temperature=2.0)


@pytest.fixture(scope="module")
def net(make_source: Callable[..., ModelSource], make_causal_lm: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    # vLLM's kernels for CPUs want heads of at least 32 numbers.
    return make_causal_lm(make_source("llama", num_attention_heads=1, num_key_value_heads=1, initializer_range=0.2))


@pytest.fixture(params=[pytest.param(name, marks=NEEDS.get(name, ())) for name in ENGINES])
def engine(request: pytest.FixtureRequest, net: PreTrainedModel) -> RolloutEngine:
    return given_weights(ENGINES[request.param](net, torch.device("cpu")), net, version=3)


def given_weights(engine: RolloutEngine, net: PreTrainedModel, version: int) -> RolloutEngine:
    engine.update_weights(iter(net.state_dict().items()), version)
    return engine


def generated(engine: RolloutEngine, requests: list[Request] = REQUESTS) -> list[Completion]:
    return engine.generate(requests, SAMPLING_SETTINGS, stop_ids=STOPS)


def said(completions: list[Completion]) -> list[tuple[list[int], str]]:
    return [(completion.ids, completion.finish_reason) for completion in completions]


def test_each_request_gets_one_completion_in_its_place(engine: RolloutEngine) -> None:
    completions = generated(engine)
    assert [completion.request for completion in completions] == list(range(len(REQUESTS)))
    assert engine.generate([], SAMPLING_SETTINGS, stop_ids=STOPS) == []


def test_a_response_ends_with_its_first_stop_token_or_at_the_limit(engine: RolloutEngine) -> None:
    completions = generated(engine)
    for ids, reason in said(completions):
        stops = [place for place, token in enumerate(ids) if token in STOPS]
        assert stops == ([len(ids) - 1] if reason == "stop" else [])
        assert reason == "stop" or len(ids) == SAMPLING_SETTINGS.max_new_tokens
    assert len({ids[-1] for ids, reason in said(completions) if reason == "stop"}) > 1, "several stop ids must occur"
    assert {reason for _, reason in said(completions)} == {"stop", "length"}


def test_logprobs_are_those_of_the_scorer(engine: RolloutEngine, net: PreTrainedModel) -> None:
    sampling, keys = Sampling(max_new_tokens=10), [request.key for request in REQUESTS]
    sampled = sample(engine, *pad(PROMPTS, "left"), keys, sampling, stop_ids=STOPS)
    with torch.no_grad():
        scored = response_stats(net, sampled.sequences).logprobs
    mask = sampled.sequences.response_mask
    assert_close(sampled.logprobs[mask], scored[mask], atol=1e-4, rtol=1e-4)
    assert sampled.logprobs[mask].std() > 0.1


def test_a_key_gets_the_same_response_whatever_the_rest_of_the_batch_is(engine: RolloutEngine) -> None:
    together = said(generated(engine))
    assert [said(generated(engine, [request]))[0] for request in REQUESTS] == together
    assert said(generated(engine, REQUESTS[::-1])) == together[::-1]


def test_other_keys_get_other_responses_to_the_same_prompt(engine: RolloutEngine) -> None:
    # The same request four times, and four requests that differ in seed, iteration and row.
    key = RandomKey(1, (SAMPLING, 0), 0)
    others = [key._replace(seed=2), key._replace(stream=(SAMPLING, 1)), key._replace(row=1)]
    responses = said(generated(engine, [Request([7], each) for each in [key, key, *others]]))
    assert responses[0] == responses[1]
    assert len({tuple(ids) for ids, _ in responses}) == 4


def test_iterate_yields_each_completion_once_as_it_finishes(engine: RolloutEngine) -> None:
    completions = engine.iterate(REQUESTS, SAMPLING_SETTINGS, stop_ids=STOPS)
    assert isinstance(completions, Iterator)
    found = list(completions)
    assert in_order(found, len(REQUESTS)) == generated(engine)
    # Of the requests that are answered together, the one with the shorter response is complete first.
    places = [completion.request for completion in found]
    lengths = {completion.request: len(completion.ids) for completion in found}
    short, long = min(range(4), key=lengths.__getitem__), max(range(4), key=lengths.__getitem__)
    assert lengths[short] < lengths[long]
    assert places.index(short) < places.index(long)


def test_stream_yields_the_same_response_token_by_token(engine: RolloutEngine) -> None:
    for request in REQUESTS[:3]:
        (whole,) = generated(engine, [request])
        tokens = list(engine.stream(request, SAMPLING_SETTINGS, stop_ids=STOPS))
        assert [token.id for token in tokens] == whole.ids
        assert_close(torch.tensor([token.logprob for token in tokens]), torch.tensor(whole.logprobs))
        ends = [token.finish_reason for token in tokens]
        assert ends == [None] * (len(tokens) - 1) + [whole.finish_reason]


def test_a_completion_says_which_weights_wrote_it(engine: RolloutEngine, net: PreTrainedModel) -> None:
    assert engine.weights_version == 3
    assert {completion.weights_version for completion in generated(engine)} == {3}
    given_weights(engine, net, version=8)
    assert engine.weights_version == 8
    assert {completion.weights_version for completion in generated(engine)} == {8}


@torch.no_grad()
def test_new_weights_draw_the_next_response(engine: RolloutEngine, net: PreTrainedModel) -> None:
    before, head = said(generated(engine)), net.get_output_embeddings().weight
    old = head.clone()
    try:
        head.copy_(head.flip(0))
        given_weights(engine, net, version=4)
        assert said(generated(engine)) != before
    finally:
        head.copy_(old)
    given_weights(engine, net, version=5)
    assert said(generated(engine)) == before


def test_an_engine_that_was_released_goes_on_as_before(engine: RolloutEngine) -> None:
    before = generated(engine)
    engine.resume()  # Nothing has been released yet.
    engine.release()
    engine.release()
    engine.resume()
    assert engine.weights_version == 3
    assert generated(engine) == before


def test_sampling_leaves_gradients_and_random_state_alone(engine: RolloutEngine, net: PreTrainedModel) -> None:
    state, weights = torch.get_rng_state(), [weight.clone() for weight in net.parameters()]
    generated(engine)
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, net.parameters(), weights))
    assert all(weight.grad is None for weight in net.parameters())


def completion(request: int) -> Completion:
    return Completion(request, [1], [0.0], "stop", 0)


@pytest.mark.parametrize("answered", [[0, 1], [0, 1, 1], [0, 1, 3], [0, 1, 2, 2]])
def test_completions_that_are_missing_or_twice_are_an_error(answered: list[int]) -> None:
    with pytest.raises(RuntimeError, match="given 3 requests"):
        in_order(map(completion, answered), 3)


def tensors() -> Iterator[tuple[str, Tensor]]:
    raise AssertionError("nobody may read this")
    yield


def test_an_engine_that_shares_its_weights_leaves_the_stream_unread(engine: RolloutEngine) -> None:
    if engine.shares_weights:
        engine.update_weights(tensors(), version=9)
        assert engine.weights_version == 9
