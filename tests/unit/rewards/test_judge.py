"""A judge, through LangChain's OpenAI client and a local server that speaks the same protocol."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from lightning_rlhf import LLMJudge, TextReward
from lightning_rlhf.errors import UserError


def says(text: Callable[[list[dict[str, str]]], str]) -> Callable[[Any], tuple[int, Any]]:
    """Makes the reply of a chat model that answers a list of messages with a text."""

    def reply(body: Any) -> tuple[int, Any]:
        message = {"role": "assistant", "content": text(body["messages"])}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        head = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        return 200, {**head, "choices": choices, "usage": usage}

    return reply


@pytest.fixture
def make_judge(server: Any) -> Callable[..., LLMJudge]:
    def make(**settings: Any) -> LLMJudge:
        connection = {"base_url": server.url, "api_key": "none", "max_retries": 0, "temperature": 0.0}
        return LLMJudge("openai:some-model", settings=connection, **settings)

    return make


def test_scores_come_back_in_order_between_0_and_1(server: Any, make_judge: Callable[..., LLMJudge]) -> None:
    server.reply = says(lambda messages: f"Fair.\nScore: {messages[-1]['content'].count('good')}")
    responses = ["good good good good good", "bad", "good"]
    assert TextReward(make_judge())(["a", "b", "c"], responses, [{}] * 3) == [0.5, 0.0, 0.1]
    assert {request["model"] for request in server.requests} == {"some-model"}
    assert {request["temperature"] for request in server.requests} == {0.0}


def test_the_model_reads_rubric_scale_conversation_and_answer(server: Any, make_judge: Callable) -> None:
    server.reply = says(lambda messages: "Score: -1")
    judge = make_judge(rubric="whether it {rhymes}", scale=(-1, 3))
    conversation = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}]
    columns = [{"messages": [*conversation, {"role": "user", "content": "Rhyme!"}]}]
    assert TextReward(judge)(["Rhyme!"], ["Cat, hat."], columns) == [0.0]
    system, user = server.requests[0]["messages"]
    assert system["role"] == "system"
    assert "whether it {rhymes}" in system["content"]
    assert "from -1 (worst) to 3 (best)" in system["content"]
    assert "user: Hello\n\nassistant: Hi.\n\nuser: Rhyme!" in user["content"]
    assert "<answer>\nCat, hat.\n</answer>" in user["content"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Score: 7", 0.7),
        ("**Score:** 7/10", 0.7),
        ("**Score**: 7.5", 0.75),
        ("**Score: 7.5**", 0.75),
        ("Score: 3\nwas my first thought.\n\n  score: 8.  \n\n", 0.8),
        ("Score: 0", 0.0),
        ("Score: 10 / 10", 1.0),
    ],
)
def test_the_last_line_of_a_reply_is_the_score(reply: str, expected: float, server: Any, make_judge: Callable) -> None:
    server.reply = says(lambda messages: reply)
    assert make_judge()(["a"], ["b"]) == [pytest.approx(expected)]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "unclear",
    [
        "It is a 7.",
        "Score: N/A",
        "Score: 11",
        "Score: -1",
        "Score: 10/100",
        "Score: 9 out of 1000",
        "Score: 1e1",
        "Score: 5-7",
        "Score: 1,000",
        "I cannot grade this. Score: 10",
        "Score: 10\nNo, I cannot grade this.",
        "Score:\n8",
        "",
    ],
)
def test_a_reply_without_a_score_on_the_scale_is_asked_about_once(
    unclear: str, server: Any, make_judge: Callable
) -> None:
    def text(messages: list[dict[str, str]]) -> str:
        if "clear" in messages[1]["content"]:
            return "Score: 10"
        return unclear if len(messages) == 2 else "Score: 3"

    server.reply = says(text)
    assert make_judge()(["a", "b"], ["vague", "clear"]) == [0.3, 1.0]
    assert len(server.requests) == 3
    asked_again = next(request["messages"] for request in server.requests if len(request["messages"]) > 2)
    assert [message["role"] for message in asked_again] == ["system", "user", "assistant", "user"]
    assert asked_again[2]["content"] == unclear


def test_a_model_that_gives_no_score_twice_is_an_error_that_shows_what_it_said(
    server: Any, make_judge: Callable
) -> None:
    server.reply = says(lambda messages: "As a poet" if len(messages) == 2 else "I cannot")
    with pytest.raises(UserError, match=r"^model=openai:some-model: .* response 'b'; it said 'As a poet', then 'I can"):
        make_judge()(["a"], ["b"])


def test_what_a_provider_says_is_passed_on(server: Any, make_judge: Callable) -> None:
    server.reply = lambda body: (401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}})
    with pytest.raises(UserError, match="^model=openai:some-model: .*Incorrect API key provided"):
        make_judge()(["a"], ["b"])


@pytest.mark.parametrize(
    ("model", "scale", "message"),
    [
        ("openai:gpt", (10, 0), r"scale=\[10, 0\]: the first number must be less"),
        ("openai:gpt", (0, math.inf), r"scale=\[0, inf\]: .* both finite"),
        ("mistralai:large", (0, 10), "model=mistralai:large: .*pip install"),
        ("nobody:gpt", (0, 10), "model=nobody:gpt: "),
        ("openai:gpt", (0, 10), "model=openai:gpt: .*OPENAI_API_KEY"),
    ],
)
def test_a_judge_that_cannot_be_made_is_an_error_at_once(
    model: str, scale: tuple[float, float], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match=f"(?s)^{message}"):
        LLMJudge(model, scale=scale)


def test_the_key_is_in_a_variable_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    model = LLMJudge("openai:m", api_key_env="MY_KEY").client.model
    assert model.openai_api_key.get_secret_value() == "secret"  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"^reward.function.settings.api_key: .* reward.function.api_key_env=NAME$"):
        LLMJudge("openai:m", settings={"api_key": "secret"})
