"""Sources that wait for other machines are asked a few responses at a time while others are still being sampled."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import PreTrainedModel

from lightning_rlhf import HTTPReward, TextReward
from lightning_rlhf.data.prompts import Prompt, collate_prompts
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.roles import SeparateRoles
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rewards.build import WeightedSum, as_reward
from lightning_rlhf.rewards.judge import LLMJudge
from lightning_rlhf.rewards.remote import Remote, remote_of
from lightning_rlhf.rollout.collect import Collected, collect
from lightning_rlhf.rollout.engines.engine import Completion, Request
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey

COUNT = 20
PROMPTS = collate_prompts([Prompt([7, 7 + row], f"prompt {row}", {"n": row}) for row in range(COUNT)], range(COUNT))
KEYS = [RandomKey(1, (SAMPLING, 0), row) for row in range(COUNT)]
WIDE = Sampling(max_new_tokens=12, temperature=2.0)


def scores_of(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Scores depend on the prompt and on the response, so that no two rows can be exchanged."""
    return [100.0 * int(prompt.split()[1]) + len(response) for prompt, response in zip(prompts, responses, strict=True)]


def scored(body: Any) -> tuple[int, Any]:
    return 200, {"scores": scores_of(body["prompts"], body["responses"])}


@pytest.fixture(scope="module")
def actor(make_source: Callable[..., ModelSource], make_causal_lm: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    return make_causal_lm(make_source("gpt2"))


@pytest.fixture
def renderer(make_source: Callable[..., ModelSource]) -> Renderer:
    # One in four tokens ends a response, so that responses do not end in the order of their prompts.
    return Renderer(make_source("gpt2").load_tokenizer(), stop_ids=range(3, 64, 4))


@pytest.fixture
def collected(
    actor: PreTrainedModel,
    make_source: Callable[..., ModelSource],
    make_causal_lm: Callable[..., PreTrainedModel],
    renderer: Renderer,
) -> Callable[..., Collected]:
    @torch.no_grad()
    def collected(function: Any, engine: type[NativeEngine] = NativeEngine, micro_batch_size: int = 100) -> Collected:
        reference = make_causal_lm(make_source("gpt2"), seed=2)
        reward = as_reward(TextReward(function), renderer)
        roles = SeparateRoles(actor=actor, reference=reference, reward=reward)
        built = engine(actor, torch.device("cpu"))
        return collect(built, roles, PROMPTS, WIDE, renderer, keys=KEYS, micro_batch_size=micro_batch_size)

    return collected


def test_requests_arrive_before_the_last_response_of_a_micro_batch_has_ended(
    server: Any, collected: Callable[..., Collected]
) -> None:
    arrived = threading.Event()

    def reply(body: Any) -> tuple[int, Any]:
        arrived.set()
        return scored(body)

    class Waits(NativeEngine):
        def iterate(self, requests: Sequence[Request], *arguments: Any, **settings: Any) -> Iterator[Completion]:
            *first, last = super().iterate(requests, *arguments, **settings)
            yield from first
            assert arrived.wait(timeout=20), "no response was sent while one was missing"
            yield last

    server.reply = reply
    found = collected(HTTPReward(server.url), Waits)
    assert found.samples.scores.total.tolist() == scores_of(PROMPTS.texts, found.responses)


@pytest.mark.parametrize(("batch_size", "calls"), [(64, 4), (2, 1), (64, 16)])
def test_scores_and_their_order_are_those_of_a_function_that_is_asked_in_order(
    server: Any, collected: Callable[..., Collected], batch_size: int, calls: int
) -> None:
    server.reply = scored
    asked = collected(HTTPReward(server.url, batch_size=batch_size, max_concurrency=calls))
    plain = collected(scores_of, micro_batch_size=6)
    assert asked.responses == plain.responses
    assert torch.equal(asked.samples.sequences.input_ids, plain.samples.sequences.input_ids)
    assert torch.equal(asked.samples.scores.whole, plain.samples.scores.whole)
    assert_close(asked.samples.ref_logprobs, plain.samples.ref_logprobs)
    assert sorted(text for body in server.requests for text in body["prompts"]) == sorted(PROMPTS.texts)
    # Eight parts of three at most; or two in each request, if it may hold no more.
    assert max(len(body["prompts"]) for body in server.requests) == min(batch_size, 3)


def test_several_requests_are_under_way_at_a_time_and_never_more_than_allowed(
    server: Any, collected: Callable[..., Collected]
) -> None:
    lock, under_way, most = threading.Lock(), 0, 0
    # Each request is answered when a second one has arrived, and there is an even number of requests.
    pair = threading.Barrier(2, timeout=20)

    def reply(body: Any) -> tuple[int, Any]:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        pair.wait()
        with lock:
            under_way -= 1
        return scored(body)

    server.reply = reply
    collected(HTTPReward(server.url, batch_size=2, max_concurrency=2))
    assert len(server.requests) == COUNT // 2
    assert most == 2


def test_what_the_server_says_when_it_refuses_ends_the_rollout(
    server: Any, collected: Callable[..., Collected]
) -> None:
    server.reply = lambda body: (422, "no such rubric") if "prompt 13" in body["prompts"] else scored(body)
    with pytest.raises(UserError, match=rf"^url={server.url}: status 422 .*no such rubric"):
        collected(HTTPReward(server.url))


def test_a_judge_is_asked_about_one_response_at_a_time_as_often_as_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    judge = LLMJudge("openai:some-model", max_concurrency=5)
    assert TextReward(judge).remote == Remote(calls=5, rows=1)


def test_a_sum_is_asked_in_parts_if_all_of_its_functions_are(renderer: Renderer) -> None:
    def local(prompts: list[str], responses: list[str]) -> list[float]:
        return scores_of(prompts, responses)

    def own(prompts: list[str], responses: list[str]) -> list[float]:
        return scores_of(prompts, responses)

    own.remote = Remote(calls=9, rows=5)  # type: ignore[attr-defined]

    def of(**functions: Any) -> Remote | None:
        parts = {name: TextReward(function) for name, function in functions.items()}
        return remote_of(as_reward(WeightedSum(parts, dict.fromkeys(parts, 1.0)), renderer))

    http = HTTPReward("http://127.0.0.1:1/score")
    assert of(http=http, own=own) == Remote(calls=4, rows=5)
    assert of(http=http, own=own, local=local) is None
    # The function itself has no say in whether something else is called `remote`.
    local.remote = lambda: None  # type: ignore[attr-defined]
    assert remote_of(as_reward(TextReward(local), renderer)) is None
