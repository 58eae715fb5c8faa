"""Requests and completions in the terms of vLLM."""

import pytest

from lightning_rlhf.errors import UserError
from lightning_rlhf.rollout.engines.engine import Completion, Request
from lightning_rlhf.rollout.engines.vllm_sampling import check_requests, completion, sampling_params, versions_of
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey

KEY = RandomKey(1, (SAMPLING, 0), 3)
SETTINGS = Sampling(max_new_tokens=8, temperature=0.7, top_k=5, top_p=0.9)


def test_the_whole_distribution_and_the_seed_of_the_key_are_named() -> None:
    params = sampling_params(Request([1, 2], KEY), SETTINGS, (5, -1))
    assert params["seed"] == KEY.as_seed()
    assert params["stop_token_ids"] == [5], "-1 is no token"
    assert params["ignore_eos"] is True, "no other token ends a response"
    assert (params["max_tokens"], params["temperature"], params["top_k"], params["top_p"]) == (8, 0.7, 5, 0.9)
    assert (params["min_p"], params["repetition_penalty"]) == (0.0, 1.0)


def answered(reason: str, versions: list[str], sampling: Sampling = SETTINGS) -> Completion:
    return completion(2, [4, 5], [-1.0, -0.5], reason, versions, 7, sampling)


def test_an_answer_becomes_a_completion_of_the_weights_that_wrote_it() -> None:
    assert answered("stop", ["7"]) == Completion(2, [4, 5], [-1.0, -0.5], "stop", 7)
    assert answered("length", ["7"]).finish_reason == "length"


def test_a_greedy_token_has_probability_1() -> None:
    assert answered("stop", ["7"], Sampling(max_new_tokens=8, temperature=0)).logprobs == [0.0, 0.0]


@pytest.mark.parametrize("versions", [["6"], ["6", "7"], ["default"], []])
def test_a_response_that_other_weights_wrote_is_an_error(versions: list[str]) -> None:
    with pytest.raises(UserError, match="the trainer has sent version 7"):
        answered("stop", versions)


def test_a_response_that_vllm_broke_off_is_an_error() -> None:
    with pytest.raises(UserError, match=r"not finished a response \(abort\)"):
        answered("abort", ["7"])


def test_versions_come_from_the_spans_of_an_answer() -> None:
    assert versions_of([{"version": "6", "start": 0, "end": 2}, {"version": "7", "start": 2, "end": 3}]) == ["6", "7"]
    assert versions_of(None) == []


def test_a_prompt_with_its_longest_response_must_fit() -> None:
    requests = [Request([1] * length, KEY) for length in (3, 12)]
    check_requests(requests, SETTINGS, 20)
    check_requests([], SETTINGS, 8)
    with pytest.raises(UserError, match="the longest prompt has 12 tokens, and max_new_tokens=8, .* at most 19 tokens"):
        check_requests(requests, SETTINGS, 19)


def test_a_temperature_beyond_the_limit_of_vllm_is_an_error() -> None:
    check_requests([Request([1], KEY)], Sampling(max_new_tokens=2, temperature=2.0), 20)
    with pytest.raises(UserError, match="temperature=4: vLLM draws at temperatures up to 2: .* rollout=native"):
        check_requests([Request([1], KEY)], Sampling(max_new_tokens=2, temperature=4.0), 20)
