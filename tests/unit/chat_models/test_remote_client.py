"""What becomes of the settings of a client: its key, its provider, its address and its prices."""

import json
from dataclasses import replace

import pytest
from answering import dripping, serving
from openai_server import OpenAIServer

from lightning_rlhf.chat_models.client import remote_client
from lightning_rlhf.errors import UserError


def test_a_key_comes_from_the_variable_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    model = remote_client("openai:m", api_key_env="MY_KEY").model
    assert model.openai_api_key.get_secret_value() == "secret"  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="^llm.api_key_env=NO_KEY: there is no such environment variable$"):
        remote_client("openai:m", api_key_env="NO_KEY")
    with pytest.raises(UserError, match=r"^judge.settings.api_key: a key .* as judge.api_key_env=NAME$") as refused:
        remote_client("openai:m", settings={"api_key": "secret"}, group="judge")
    assert "secret" not in str(refused.value)
    header = {"default_headers": {"Authorization": "Bearer secret"}, "timeout": 5}
    with pytest.raises(UserError, match=r"^llm.settings.default_headers.Authorization: a key [^\n]*$") as refused:
        remote_client("openai:m", settings=header)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(("model", "variable"), [("openai:m", "OPENAI_API_KEY"), ("anthropic:m", "ANTHROPIC_API_KEY")])
def test_a_key_that_is_missing_is_named_before_anything_is_asked(
    model: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match=f"^model={model}: the environment variable {variable} is not set"):
        remote_client(model)


def test_a_name_alone_is_that_of_a_model_on_the_server(server: OpenAIServer) -> None:
    own = {"api_key": "none"}
    assert (
        remote_client("some/model", base_url=server.url, settings=own).ask([("user", "one two three")]).text == "Good."
    )
    assert server.requests[0]["model"] == "some/model"


def test_a_model_of_no_known_provider_gets_one_sentence() -> None:
    with pytest.raises(UserError) as error:
        remote_client("mine")
    assert str(error.value).startswith("model=mine: Unable to infer model provider")
    assert str(error.value).endswith("; write it as provider:name, such as openai:gpt-4o-mini")
    assert "\n" not in str(error.value)


def test_one_price_alone_is_refused() -> None:
    with pytest.raises(UserError, match="give both prices, or none"):
        remote_client("openai:m", input_price=1.0)


@pytest.mark.parametrize("name", ["anthropic:claude-haiku-4-5", "ollama:llama3.2"])
def test_the_other_providers_get_their_settings(name: str) -> None:
    own = {"num_predict": 5} if name.startswith("ollama") else {"max_tokens": 5, "api_key": "none"}
    model = remote_client(name, temperature=0.5, base_url="http://127.0.0.1:9", settings=own).model
    assert model.temperature == 0.5  # type: ignore[attr-defined]
    assert 5 in (getattr(model, "num_predict", None), getattr(model, "max_tokens", None))
    # The client repeats requests itself.
    assert getattr(model, "max_retries", 0) == 0


def test_a_key_that_the_provider_repeats_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "open-sesame")

    def refuse(path: str, body: object) -> tuple[int, object]:
        return (503 if len(server.seen) == 1 else 401), {"error": {"message": "no such key: open-sesame"}}

    with serving(refuse) as (server,):
        client = replace(remote_client("openai:m", base_url=server.url), backoff=0.01)
        with pytest.raises(UserError, match=r"no such key: \*\*\*") as error:
            client.ask([("user", "hello")])
    assert "sesame" not in str(error.value) + repr(client) + capsys.readouterr().out


@pytest.mark.parametrize("key", ["öffne", "two\nlines"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="OPENAI_API_KEY has characters that no header can carry$"):
        remote_client("openai:m")


def test_a_server_that_sends_a_byte_now_and_then_does_not_hold_a_request() -> None:
    text = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": "Good."}}]})
    answer = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}"
    error = pytest.raises(UserError, match=r"^model=m: timed out after 0.5 s$")
    with dripping(answer.encode(), answer.index("{")) as url, error:
        remote_client("m", base_url=url, timeout=0.5, retries=0, settings={"api_key": "none"}).ask([("user", "hello")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timeout": -1}, "timeout=-1: must be from 0.001 to 604800 seconds"),
        ({"timeout": "soon"}, "llm.settings.timeout=soon: expected a number of seconds"),
    ],
)
def test_a_wrong_time_out_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        remote_client("openai:m", settings={"api_key": "none", **settings})
