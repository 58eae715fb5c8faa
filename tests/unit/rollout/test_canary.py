"""The canary and the first ratio notice an engine with other weights than the trainer's."""

import copy
from collections.abc import Callable

import pytest
import torch
from support import OwnWeights
from transformers import PreTrainedModel

from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Scores, Sequences
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.canary import CANARY, canary, check_canary, check_first_ratio, differs, differs_from
from lightning_rlhf.rollout.collect import Samples
from lightning_rlhf.rollout.engines.engine import Completion, Request

CPU = torch.device("cpu")
REQUEST = canary(vocab_size=64, context=2048)


@pytest.fixture(scope="module")
def net(make_source: Callable[..., ModelSource], make_causal_lm: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    return make_causal_lm(make_source("llama"))


def answered(net: PreTrainedModel, request: Request = REQUEST, scale: float = 1.0) -> Completion:
    """Returns the answer of an engine whose copy of the weights has another head."""
    engine = OwnWeights(net, CPU)
    weights = {**net.state_dict(), "lm_head.weight": net.state_dict()["lm_head.weight"] * scale}
    engine.update_weights(iter(weights.items()), 1)
    (answer,) = engine.generate([request], CANARY, stop_ids=())
    return answer


def test_an_engine_with_the_weights_of_the_trainer_passes(net: PreTrainedModel) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert differs(net, CPU, REQUEST, answered(net), dtype) == ""


def test_an_engine_with_slightly_other_weights_is_noticed_in_fp32_and_one_with_others_in_16_bits(
    net: PreTrainedModel,
) -> None:
    near, far = answered(net, scale=1.001), answered(net, scale=1.5)
    assert "differ" in differs(net, CPU, REQUEST, near, torch.float32)
    assert differs(net, CPU, REQUEST, near, torch.bfloat16) == ""
    assert "differ" in differs(net, CPU, REQUEST, far, torch.bfloat16)


def test_the_dtype_in_which_the_trained_model_computes_widens_the_tolerance_too(net: PreTrainedModel) -> None:
    exact, far = answered(net), answered(net, scale=1.5)
    rounded = copy.deepcopy(net).bfloat16()
    assert "differ" in differs(rounded.float(), CPU, REQUEST, exact, torch.float32)
    assert differs(rounded.bfloat16(), CPU, REQUEST, exact, torch.float32) == ""
    assert "differ" in differs(rounded, CPU, REQUEST, far, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert differs(net, CPU, REQUEST, exact, torch.float32) == ""
        assert "differ" in differs(net, CPU, REQUEST, far, torch.float32)


def test_log_probs_at_another_temperature_or_nan_are_noticed(net: PreTrainedModel) -> None:
    right = answered(net)
    for factor in (CANARY.temperature, float("nan")):
        wrong = right._replace(logprobs=[logprob * factor for logprob in right.logprobs])
        assert "differ" in differs(net, CPU, REQUEST, wrong, torch.float32)


def test_the_canary_is_longer_than_a_block_of_a_cache_if_the_context_allows_it() -> None:
    assert len(REQUEST.prompt) > 128
    assert len(set(REQUEST.prompt)) > 40
    assert max(canary(64, 2048).prompt) < 64
    assert len(canary(64, 40).prompt) + CANARY.max_new_tokens == 40
    assert len(canary(64, 17).prompt) == 1


def test_a_context_without_room_for_the_canary_is_an_error_about_the_limit() -> None:
    with pytest.raises(UserError, match=r"vLLM reads at most 16 tokens .* at least 17: raise .*max_length"):
        canary(64, 16)


def test_a_server_that_comes_back_is_compared_with_a_proven_answer(net: PreTrainedModel) -> None:
    proven, other = answered(net), answered(net, scale=1.5)
    assert differs_from(proven, proven, torch.float32) == ""
    assert differs_from(proven, other, torch.float32)
    # Behind a token that rounding has changed, nothing is comparable.
    changed = proven._replace(ids=[*proven.ids[:5], 63, *proven.ids[6:]], logprobs=[*proven.logprobs[:5], *[-9.0] * 11])
    assert proven.ids[5] != 63
    assert differs_from(proven, changed, torch.float32) == ""
    first = proven._replace(ids=[(proven.ids[0] + 1) % 64, *proven.ids[1:]])
    assert "another first token" in differs_from(proven, first, torch.float32)


def test_the_run_stops_with_the_name_of_the_engine_and_the_version() -> None:
    check_canary(lambda: "", "vLLM", 7)
    with pytest.raises(UserError, match="^vLLM does not have .* version 7: it is old"):
        check_canary(lambda: "it is old", "vLLM", 7)


def samples(*ratios: float) -> Samples:
    """Returns samples whose three tokens have given ratios of the actor's probability to that of the engine."""
    mask = torch.tensor([[True, True], [True, False]])
    ids = torch.ones(2, 3, dtype=torch.long)
    drawn = torch.tensor([[-1.0, -2.0], [-0.5, float("inf")]])
    logprobs = drawn + torch.tensor([*ratios, 1.0]).reshape(2, 2).log()
    zeros = torch.zeros(2, 2)
    return Samples(
        Sequences(ids, torch.ones(2, 3).bool(), mask),
        Scores(torch.zeros(2), {}),
        torch.ones(2).bool(),
        sampler_logprobs=drawn,
        weights_version=torch.zeros(2, 1, dtype=torch.long),
        scored=torch.ones(2).bool(),
        logprobs=logprobs,
        entropy=zeros,
        ref_logprobs=zeros,
        values=None,
    )


@pytest.mark.parametrize("ratios", [(1.0, 1.0, 1.0), (0.92, 0.92, 0.92), (1.08, 1.08, 1.08), (0.5, 1.0, 2.0)])
def test_training_goes_on_if_the_first_ratio_is_about_1(ratios: tuple[float, float, float]) -> None:
    check_first_ratio(samples(*ratios))


# The arithmetic mean of the last three ratios is 1, as it is in expectation for any engine; (1.5 · 1.2 · 0.3)^(1/3) is
# 0.814.
@pytest.mark.parametrize(
    ("ratios", "mean"), [((0.019,) * 3, "0.019"), ((1.12,) * 3, "1.12"), ((1.5, 1.2, 0.3), "0.814")]
)
def test_training_stops_if_the_first_ratio_is_not_about_1(ratios: tuple[float, float, float], mean: str) -> None:
    with pytest.raises(UserError, match=f"{mean} times the probability.* rollout=native"):
        check_first_ratio(samples(*ratios))
