"""A model of this package as a chat model of LangChain."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from support import tiny_source

from lightning_rlhf.chat_models.budget import Usage
from lightning_rlhf.chat_models.client import ChatClient
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.engines.engine import Completion, Request
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.synthesis.local import LocalChatModel, local_client

SOURCE = tiny_source()


class Watched(NativeEngine):
    """Remembers the requests of each call."""

    def __init__(self, source: ModelSource) -> None:
        net: Any = load_causal_lm(source).eval()
        super().__init__(net, torch.device("cpu"), max_rows=4)
        self.calls: list[list[Request]] = []

    def generate(self, requests: Sequence[Request], *args: Any, **settings: Any) -> list[Completion]:
        self.calls.append(list(requests))
        return super().generate(requests, *args, **settings)


@pytest.fixture
def engine() -> Watched:
    return Watched(SOURCE)


@pytest.fixture
def renderer() -> Renderer:
    # The tokenizer's own template has no system role.
    return Renderer(SOURCE.load_tokenizer(), "plain")


def model(engine: Watched, renderer: Renderer, **sampling: Any) -> LocalChatModel:
    return LocalChatModel(engine, renderer, Sampling(**{"max_new_tokens": 6, **sampling}), seed=3)


def test_the_model_reads_what_a_stage_would_read_and_says_what_the_engine_samples(
    engine: Watched, renderer: Renderer
) -> None:
    chat = [SystemMessage("Be kind."), HumanMessage("My kettle leaks."), AIMessage("Oh."), HumanMessage("What now?")]
    reply = model(engine, renderer, temperature=0).invoke(chat)
    ((request,),) = engine.calls
    roles = ("system", "user", "assistant", "user")
    turns: Any = [{"role": role, "content": turn.content} for role, turn in zip(roles, chat, strict=True)]
    assert request.prompt == renderer.prompt(turns)
    (done,) = NativeEngine.generate(
        engine, [request], Sampling(max_new_tokens=6, temperature=0), stop_ids=renderer.stop_ids
    )
    assert reply.text == renderer.decode(done.ids)
    assert reply.usage_metadata == {
        "input_tokens": len(request.prompt),
        "output_tokens": len(done.ids),
        "total_tokens": len(request.prompt) + len(done.ids),
    }
    assert reply.response_metadata["finish_reason"] == done.finish_reason


def test_instructions_stand_before_the_first_question_if_the_template_has_no_system_role(engine: Watched) -> None:
    renderer = Renderer(SOURCE.load_tokenizer())
    model(engine, renderer).invoke([SystemMessage("Be kind."), HumanMessage("My kettle leaks.")])
    ((request,),) = engine.calls
    assert request.prompt == renderer.prompt([{"role": "user", "content": "Be kind.\n\nMy kettle leaks."}])


def test_requests_at_the_same_time_are_one_batch_and_each_gets_its_own_reply(
    engine: Watched, renderer: Renderer
) -> None:
    chat_model, replies = model(engine, renderer, temperature=0), dict[str, str]()
    questions = ["My kettle leaks.", "My door is stuck.", "My lamp hums."]

    def ask(question: str) -> None:
        replies[question] = chat_model.invoke(question).text

    threads = [threading.Thread(target=ask, args=[question]) for question in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(map(len, engine.calls)) == 3
    assert max(map(len, engine.calls)) > 1
    assert replies == {
        question: model(Watched(SOURCE), renderer, temperature=0).invoke(question).text for question in questions
    }


def test_equal_requests_get_different_replies_and_a_seed_repeats_them(engine: Watched, renderer: Renderer) -> None:
    def said() -> list[str]:
        chat_model = model(engine, renderer)
        return [chat_model.invoke("My kettle leaks.").text for _ in range(3)]

    first = said()
    assert len(set(first)) == 3
    assert said() == first


def test_the_oldest_exchanges_are_left_out_if_the_model_cannot_read_all(engine: Watched, renderer: Renderer) -> None:
    chat: list[Any] = [SystemMessage("Be kind.")]
    for number in range(40):
        chat += [HumanMessage(f"My kettle leaks, for the time {number}."), AIMessage("Tighten the seal.")]
    model(engine, renderer).invoke([*chat, HumanMessage("What now?")])
    ((request,),) = engine.calls
    limit = SOURCE.hf_config().max_position_embeddings
    assert limit - 6 - 40 < len(request.prompt) <= limit - 6
    text = renderer.tokenizer.decode(request.prompt)
    assert "Be kind." in text
    assert "What now?" in text


def test_an_error_of_the_engine_reaches_all_who_wait_and_the_next_request_is_answered(
    engine: Watched, renderer: Renderer
) -> None:
    chat_model = model(engine, renderer)
    generate, engine.generate = engine.generate, lambda *_, **__: 1 / 0  # type: ignore[assignment]
    with pytest.raises(ZeroDivisionError):
        chat_model.invoke("Hello")
    engine.generate = generate  # type: ignore[method-assign]
    assert isinstance(chat_model.invoke("Hello").text, str)


def test_a_client_of_a_local_model_costs_nothing_and_counts_tokens() -> None:
    client: ChatClient = local_client(
        replace(SOURCE), temperature=1.0, max_tokens=4, top_p=1.0, template=None, max_concurrency=2, seed=1
    )
    reply = client.ask([("user", "My kettle leaks.")])
    assert 0 < reply.usage.output_tokens <= 4
    client.budget.add(Usage(10, 10))
    assert client.budget.usd == 0
