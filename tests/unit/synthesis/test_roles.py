"""What the two roles of a conversation are told, and how a conversation ends."""

from collections.abc import Callable
from typing import Any

import pytest
from openai_server import OpenAIServer

from lightning_rlhf.chat_models.client import ChatClient
from lightning_rlhf.synthesis.conversation import Held, hold
from lightning_rlhf.synthesis.roles import Role

MakeClient = Callable[..., ChatClient]


def roles(client: ChatClient, memory: int = 4) -> tuple[Role, Role]:
    return Role("user", "person of {topic}", client, memory), Role("assistant", "helper", client, memory)


def counting(messages: list[dict[str, str]]) -> str:
    """Numbers its turns: the person says p0, p1, … and the assistant a0, a1, …"""
    side = messages[0]["content"][0].replace("h", "a")
    own = [message["content"] for message in messages if message["role"] == "assistant"]
    return f"{side}{int(own[-1][1:]) + 1 if own else 0}"


def held(client: ChatClient, num_exchanges: int, memory: int = 4, messages: Any = ()) -> Held:
    return hold(*roles(client, memory), "tea", num_exchanges, list(messages))


def test_the_person_begins_and_the_turns_alternate(server: OpenAIServer, make_client: MakeClient) -> None:
    server.say = counting
    found = held(make_client(), 2)
    assert [(turn["role"], turn["content"]) for turn in found.messages] == [
        ("user", "p0"),
        ("assistant", "a0"),
        ("user", "p1"),
        ("assistant", "a1"),
    ]
    assert (found.finished, found.ended, found.error) == (True, None, None)
    systems = [request["messages"][0]["content"] for request in server.requests]
    assert systems == ["person of tea", "helper"] * 2


def test_each_role_sees_its_own_turns_as_those_of_the_assistant(server: OpenAIServer, make_client: MakeClient) -> None:
    server.say = counting
    held(make_client(), 2)
    person, assistant = (
        [(m["role"], m["content"]) for m in request["messages"][1:]] for request in server.requests[2:]
    )
    # A model expects to be spoken to, so the person is asked to begin.
    assert person[0][0] == "user"
    assert person[1:] == [("assistant", "p0"), ("user", "a0")]
    assert assistant == [("user", "p0"), ("assistant", "a0"), ("user", "p1")]


def test_a_role_remembers_as_many_exchanges_as_it_is_told(server: OpenAIServer, make_client: MakeClient) -> None:
    server.say = lambda messages: "more"
    held(make_client(), 4, memory=1)
    # The system prompt, one exchange, and the turn that is answered; at the beginning there is less.
    assert [len(request["messages"]) for request in server.requests] == [2, 2, 4, 4, 4, 4, 4, 4]
    assert {request["messages"][1]["role"] for request in server.requests} == {"user"}


def test_the_tokens_of_all_turns_are_counted(server: OpenAIServer, make_client: MakeClient) -> None:
    found = held(make_client(), 2)
    read = sum(len(message["content"].split()) for request in server.requests for message in request["messages"])
    assert found.usage == (read, 4)


def test_a_conversation_goes_on_from_the_turns_that_there_are(server: OpenAIServer, make_client: MakeClient) -> None:
    server.say = counting
    begun: Any = [{"role": "user", "content": "p0"}, {"role": "assistant", "content": "a0"}]
    found = held(make_client(), 2, messages=[*begun, {"role": "user", "content": "p1"}])
    assert [turn["content"] for turn in found.messages] == ["p0", "a0", "p1", "a1"]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("what", "reason"),
    [("empty", "a turn of the assistant was empty"), ("cut", "a turn of the assistant was cut off by the limit")],
)
def test_a_turn_that_is_empty_or_cut_off_ends_the_conversation_before_it(
    what: str, reason: str, server: OpenAIServer, make_client: MakeClient
) -> None:
    def say(messages: list[dict[str, str]]) -> str:
        last = len(server.requests) == 4
        server.finish_reason = "length" if last and what == "cut" else "stop"
        return "" if last and what == "empty" else "word"

    server.say = say
    found = held(make_client(), 3)
    # The fourth turn is the assistant's second answer; the person's turn before it has no answer.
    assert [turn["role"] for turn in found.messages] == ["user", "assistant"]
    assert found.finished
    assert found.ended is not None
    assert found.ended.startswith(reason)
