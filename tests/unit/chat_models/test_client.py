"""The client through LangChain's OpenAI package, against a real server that fails in every way that servers fail."""

import threading
import time
from collections.abc import Callable
from typing import NoReturn

import pytest
from openai_server import Fault, OpenAIServer

from lightning_rlhf.chat_models.budget import Budget, BudgetSpent, Prices, Usage
from lightning_rlhf.chat_models.client import ChatClient, remote_client
from lightning_rlhf.errors import UserError

MakeClient = Callable[..., ChatClient]
CHAT = [("system", "Be kind."), ("user", "one two three")]


def test_a_reply_has_its_text_and_its_tokens(server: OpenAIServer, make_client: MakeClient) -> None:
    server.say = lambda messages: f"You said {messages[-1]['content']}."
    reply = make_client(temperature=0.5, max_tokens=7).ask(CHAT)
    assert reply.text == "You said one two three."
    # The server counts words: two and three were read, and five were written.
    assert reply.usage == Usage(5, 5)
    assert reply.whole
    (request,) = server.requests
    assert request["messages"][0] == {"role": "system", "content": "Be kind."}
    assert request["temperature"] == 0.5
    assert 7 in (request.get("max_tokens"), request.get("max_completion_tokens"))


def test_a_reply_that_its_length_limit_has_cut_off_is_not_whole(server: OpenAIServer, make_client: MakeClient) -> None:
    server.finish_reason = "length"
    assert not make_client().ask(CHAT).whole


PASSING = {
    "a busy server": Fault(429, '{"error": {"message": "slow down"}}'),
    "an error of the server": Fault(500, '{"error": {"message": "oops"}}'),
    "a gateway without a server": Fault(502, "<html>Bad gateway</html>", content_type="text/html"),
    "malformed JSON": Fault(200, '{"id": "1", "choices": [{'),
    "JSON of another form": Fault(200, '{"choices": null}'),
    "a reply that is cut off": Fault(200, '{"id": "1", "object": "chat.completion", "choices": []}', cut=True),
    "a page of HTML": Fault(200, "<html>Login</html>", content_type="text/html"),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_failure_that_may_pass_is_followed_by_another_attempt(
    fault: Fault, server: OpenAIServer, make_client: MakeClient
) -> None:
    server.faults = [fault, fault]
    assert make_client().ask(CHAT).text == "Good."
    assert len(server.requests) == 3


def test_a_request_that_takes_too_long_is_made_again(server: OpenAIServer, make_client: MakeClient) -> None:
    server.faults = [Fault(seconds=5)]
    assert make_client(timeout=0.5).ask(CHAT).text == "Good."
    assert len(server.requests) == 2


STREAM = {"streaming": True, "stream_usage": True}
BEGINNING = 'data: {"id":"1","object":"chat.completion.chunk","created":0,"model":"m","choices":[{"index":0,"delta":'
PART = BEGINNING + '{"role":"assistant","content":"Go"},"finish_reason":null}]}\n\n'


@pytest.mark.parametrize("cut", [True, False])
def test_a_stream_that_breaks_gives_no_half_reply(cut: bool, server: OpenAIServer, make_client: MakeClient) -> None:
    # Without `cut` the connection ends as if the reply were complete, but the model has not said that it has finished.
    server.faults = [Fault(body=PART * (2 if cut else 1), cut=cut, content_type="text/event-stream")]
    reply = make_client(settings=STREAM).ask(CHAT)
    assert reply.text.strip() == "Good."
    assert reply.usage == Usage(5, 1)
    assert len(server.requests) == 2


def test_the_server_says_how_long_to_wait(server: OpenAIServer, make_client: MakeClient) -> None:
    server.faults = [Fault(429, headers={"Retry-After": "1"})]
    make_client(backoff=0.001).ask(CHAT)
    first, second = server.times
    assert second - first >= 1


def test_pauses_double(server: OpenAIServer, make_client: MakeClient) -> None:
    server.faults = [Fault(500)] * 3
    make_client(backoff=0.05).ask(CHAT)
    pauses = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    assert all(pause >= 0.05 * 2**number for number, pause in enumerate(pauses))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(401, '{"error": {"message": "Incorrect API key"}}'), "Incorrect API key"),
        (Fault(404, '{"error": {"message": "no such model"}}'), "no such model"),
        (Fault(400, '{"error": {"message": "context too long"}}'), "context too long"),
        (Fault(429, '{"error": {"message": "pay first", "code": "insufficient_quota"}}'), "pay first"),
    ],
)
def test_a_failure_that_stays_is_an_error_at_once(
    fault: Fault, said: str, server: OpenAIServer, make_client: MakeClient
) -> None:
    server.faults = [fault]
    with pytest.raises(UserError, match=f"^model=openai:some-model: .*{said}"):
        make_client().ask(CHAT)
    assert len(server.requests) == 1


def test_a_server_that_never_recovers_is_an_error_that_says_how_often_it_was_asked(
    server: OpenAIServer, make_client: MakeClient
) -> None:
    server.faults = [PASSING["an error of the server"]] * 9
    with pytest.raises(UserError, match="^model=openai:some-model: asked 3 times: .*oops"):
        make_client(retries=2).ask(CHAT)
    assert len(server.requests) == 3


def test_a_model_that_lacks_what_was_asked_for_is_an_error_at_once() -> None:
    from langchain_core.language_models import GenericFakeChatModel

    class Deaf(GenericFakeChatModel):
        asked: int = 0

        def _generate(self, *_: object, **__: object) -> NoReturn:
            self.asked += 1
            raise NotImplementedError("no chats")

    model = Deaf(messages=iter(()))
    with pytest.raises(UserError, match=r"^model=deaf: no chats$"):
        ChatClient(model=model, name="deaf", backoff=0.0).ask([("user", "Hi")])
    assert model.asked == 1


def test_a_server_that_is_not_there_is_an_error() -> None:
    client = remote_client("openai:m", base_url="http://127.0.0.1:9/v1", settings={"api_key": "none"}, retries=0)
    # The address and the reason are those of the operating system.
    with pytest.raises(UserError, match=r"^model=openai:m: Connection error \(http://127.0.0.1:9/v1/.*refused\)$"):
        client.ask(CHAT)


def test_a_failure_that_is_followed_by_another_attempt_is_told_once(
    server: OpenAIServer, make_client: MakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults = [Fault(500, '{"error": {"message": "oops"}}')] * 2 + [Fault(429)]
    make_client(retries=4).ask(CHAT)
    oops, busy = capsys.readouterr().out.splitlines()
    assert oops.startswith("model=openai:some-model: ")
    assert "oops" in oops
    assert oops.endswith("; the request is made again, up to 4 times")
    assert "429" in busy


def test_several_requests_are_made_at_a_time_and_come_back_in_order(
    server: OpenAIServer, make_client: MakeClient
) -> None:
    together = threading.Barrier(3, timeout=20)

    def say(messages: list[dict[str, str]]) -> str:
        together.wait()
        return messages[-1]["content"]

    server.say = say
    client = make_client(max_concurrency=3)
    texts = client.map(lambda text: client.ask([("user", text)]).text, "abcdef")
    assert texts == list("abcdef")


def test_an_error_of_one_request_ends_the_pauses_of_the_others(server: OpenAIServer, make_client: MakeClient) -> None:
    server.faults = [Fault(503, headers={"Retry-After": "500"}), None, Fault(401)]
    client = make_client(max_concurrency=2)
    start = time.monotonic()
    with pytest.raises(UserError, match="^model=openai:some-model: Error code: 401"):
        client.map(lambda text: client.ask([("user", text)]).text, "abc")
    assert time.monotonic() - start < 60
    # The client can be used again.
    assert client.ask(CHAT).text == "Good."


def test_a_budget_stops_before_the_request_that_would_exceed_it(server: OpenAIServer, make_client: MakeClient) -> None:
    # A request uses 5 + 1 tokens, so three of them fit into 20.
    client = make_client(budget=Budget(max_tokens=20))
    for _ in range(3):
        client.ask(CHAT)
    with pytest.raises(BudgetSpent, match="^max_tokens=20 would be exceeded by the next request$"):
        client.ask(CHAT)
    assert len(server.requests) == 3


def test_a_model_that_does_not_report_its_tokens_cannot_keep_a_budget(
    server: OpenAIServer, make_client: MakeClient
) -> None:
    server.usage = False
    assert make_client().ask(CHAT).usage == Usage()
    with pytest.raises(UserError, match="does not report how many tokens it uses"):
        make_client(budget=Budget(max_tokens=20)).ask(CHAT)


def test_prices_are_for_a_million_tokens() -> None:
    # 2,000 tokens at 3 dollars and 1,000 at 15 dollars a million: 0.006 + 0.015.
    assert Prices(3, 15).of(Usage(2_000, 1_000)) == pytest.approx(0.021)


def test_requests_under_way_count_as_the_largest_so_far() -> None:
    budget = Budget(max_usd=0.010, prices=Prices(1000, 1000))
    budget.add(Usage(3, 1))
    # 4 are used, and each request may take 4: a second one at the same time would make 12 of 10.
    spent = pytest.raises(BudgetSpent, match=r"^max_usd=0.01 would be exceeded by the next request$")
    with budget.request(), spent, budget.request():
        pass
    with budget.request():
        pass


def test_the_next_request_may_read_and_write_as_much_as_any_before() -> None:
    budget = Budget(max_usd=6, prices=Prices(0, 1_000_000))
    budget.add(Usage(10, 1))
    budget.add(Usage(1, 3))
    # The second has fewer tokens and is the dearer one: 4 are spent, and another 3 would make 7.
    with pytest.raises(BudgetSpent), budget.request():
        pass


def test_what_an_earlier_process_has_used_counts() -> None:
    budget = Budget(max_tokens=10)
    budget.restore(Usage(6, 4))
    with pytest.raises(BudgetSpent), budget.request():
        pass


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_usd": 1.0}, "^max_usd=1.0: the prices of the model are not known"),
        ({"max_tokens": 0}, "^max_tokens=0: must be positive"),
        ({"max_usd": -1, "prices": Prices(1, 1)}, "^max_usd=-1: must be positive"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(limits: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Budget(**limits)
