"""Data sets that are made of conversations, stopped, killed and continued."""

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai_server import Fault, OpenAIServer
from support import environ

from lightning_rlhf.assembly.generate_dataset import generate_dataset
from lightning_rlhf.chat_models.client import ChatClient
from lightning_rlhf.errors import UserError
from lightning_rlhf.synthesis.data_files import FILES, Filter, Limits
from lightning_rlhf.synthesis.generate import Plan
from lightning_rlhf.synthesis.generate import generate as generate_conversations
from lightning_rlhf.synthesis.templates import Templates

Generate = Callable[..., dict[str, Any]]
SETTINGS: dict[str, Any] = {
    "num_conversations": 6,
    "num_exchanges": 2,
    "memory": 4,
    "templates": None,
    "near_duplicates": None,
    "min_answer_words": 1,
    "max_answer_words": None,
    "max_usd": None,
    "max_tokens": None,
}


class Talk:
    """Says something else in each turn, also if several threads ask."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.numbers, self.seconds = itertools.count(), seconds

    def __call__(self, messages: list[dict[str, str]]) -> str:
        time.sleep(self.seconds)
        return f"turn {next(self.numbers)}"


@pytest.fixture
def generate(llm: dict[str, Any], tmp_path: Path) -> Generate:
    """Makes a data set in a folder, and returns its `result.json`."""

    def run(**settings: Any) -> dict[str, Any]:
        folder = generate_dataset(**{"llm": llm, "output_dir": str(tmp_path / "data"), **SETTINGS, **settings})
        return json.loads((folder / "result.json").read_text())

    return run


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "data" / f"{name}.jsonl").read_text().splitlines()]


def finished(folder: Path) -> list[int]:
    """The numbers of the finished conversations."""
    return sorted(entry["number"] for entry in lines(folder, "conversations") if entry["finished"])


def check_whole(folder: Path, count: int) -> None:
    """Checks that each conversation is there once, in all files."""
    assert finished(folder) == list(range(count))
    told = {json.dumps(entry["messages"]) for entry in lines(folder, "conversations") if entry["finished"]}
    assert {json.dumps(row["messages"]) for row in lines(folder, "demonstrations")} == told
    assert [len(lines(folder, name)) for name in FILES] == [count, 2 * count, 2 * count]


def test_all_conversations_are_made_once(server: OpenAIServer, generate: Generate, tmp_path: Path) -> None:
    server.say = Talk()
    result = generate()
    check_whole(tmp_path, 6)
    assert len(server.requests) == 6 * 4
    tokens = sum(len(message["content"].split()) for each in server.requests for message in each["messages"]) + 48
    assert result["metrics"] == {"conversations": 6, "tokens": tokens, "usd": None}
    assert (result["status"], result["rows"]) == ("finished", {"demonstrations": 6, "prompts": 12, "unscored": 12})


def test_the_same_command_adds_what_is_missing(server: OpenAIServer, generate: Generate, tmp_path: Path) -> None:
    server.say = Talk()
    first = generate(num_conversations=2)
    made = lines(tmp_path, "conversations")
    second = generate(num_conversations=5)
    check_whole(tmp_path, 5)
    assert lines(tmp_path, "conversations")[:2] == made
    assert len(server.requests) == 5 * 4
    # The budget counts what the first command has used.
    assert second["metrics"]["tokens"] > 2 * first["metrics"]["tokens"]
    generate(num_conversations=5)
    assert len(server.requests) == 5 * 4


def test_a_spent_budget_ends_cleanly_and_a_larger_one_continues_the_turns(
    server: OpenAIServer, generate: Generate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.say = Talk()
    result = generate(max_tokens=700)
    assert result["status"] == "stopped"
    # Requests grow with a conversation, so each can be a little larger than all before it.
    assert result["metrics"]["tokens"] < 800
    assert "max_tokens=700" in capsys.readouterr().out
    paid = sum(len(entry["messages"]) for entry in lines(tmp_path, "conversations"))
    assert paid == len(server.requests)
    assert 0 < paid < 6 * 4
    generate()
    check_whole(tmp_path, 6)
    # No turn was made twice.
    assert len(server.requests) == 6 * 4


def test_a_failure_that_stays_keeps_what_there_is(server: OpenAIServer, generate: Generate, tmp_path: Path) -> None:
    server.say = Talk()
    server.faults = [*[None] * 10, Fault(401, '{"error": {"message": "key expired"}}')]
    with pytest.raises(UserError, match="key expired"):
        generate()
    kept = sum(len(entry["messages"]) for entry in lines(tmp_path, "conversations"))
    assert kept == len(server.requests) - 1
    generate()
    check_whole(tmp_path, 6)
    assert len(server.requests) == 6 * 4 + 1


def test_a_model_that_cannot_be_reached_leaves_nothing_behind(
    server: OpenAIServer, generate: Generate, tmp_path: Path
) -> None:
    server.faults = [Fault(401, '{"error": {"message": "wrong key"}}')] * 6
    with pytest.raises(UserError, match="wrong key"):
        generate(output_dir=str(tmp_path / "new" / "data"))
    assert not list(tmp_path.iterdir())


def test_a_client_that_has_made_one_data_set_makes_another(
    server: OpenAIServer, make_client: Callable[..., ChatClient], tmp_path: Path
) -> None:
    server.say = Talk()
    client, texts = make_client(), Templates()
    for name in ("one", "two"):
        filters = Filter(texts, Limits(1, None), None)
        made = generate_conversations(client, Plan("m", texts, 1, 4), tmp_path / name, 2, filters)
        assert (made.conversations, made.stopped) == (2, None)


def test_conversations_of_another_plan_are_not_mixed(server: OpenAIServer, generate: Generate, tmp_path: Path) -> None:
    server.say = Talk()
    generate(num_conversations=1)
    templates = tmp_path / "templates.yaml"
    templates.write_text("person: Ask about {topic}.\n")
    with pytest.raises(
        UserError, match=r"^output_dir=.*data: its .* another setting of person, num_exchanges \(person"
    ):
        generate(num_conversations=2, num_exchanges=3, templates=str(templates))
    check_whole(tmp_path, 1)


def test_other_filters_make_the_files_anew(server: OpenAIServer, generate: Generate, tmp_path: Path) -> None:
    server.say = lambda messages: "a b c d"
    result = generate(num_conversations=3)
    assert result["rows"] == {"demonstrations": 1, "prompts": 2, "unscored": 2}
    assert result["dropped"]["conversations equal to an earlier one"] == 2
    result = generate(num_conversations=3, max_answer_words=3)
    assert result["rows"] == dict.fromkeys(FILES, 0)
    assert len(server.requests) == 3 * 4


def test_a_killed_process_loses_at_most_what_was_going_on_and_nothing_is_doubled(
    server: OpenAIServer, tmp_path: Path
) -> None:
    server.say = Talk(seconds=0.05)
    words = [
        *("llm=openai_compatible", f"llm.base_url={server.url}", "llm.model=openai:m", "llm.max_concurrency=3"),
        *("output_dir=data", "num_conversations=12", "num_exchanges=2", "near_duplicates=null"),
    ]
    program = [sys.executable, "-m", "lightning_rlhf.cli", "generate-dataset", *words]
    journal = tmp_path / "data" / "conversations.jsonl"
    process = subprocess.Popen(program, cwd=tmp_path, env=environ(), stdout=subprocess.PIPE)
    end = time.monotonic() + 120
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 4):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert 4 <= len(finished(tmp_path)) < 12
    done = subprocess.run(program, cwd=tmp_path, env=environ(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    check_whole(tmp_path, 12)
    # The kill has lost three conversations of at most four turns.
    assert len(server.requests) <= 12 * 4 + 3 * 4


def test_ctrl_c_keeps_the_turns_that_have_been_paid_for(server: OpenAIServer, tmp_path: Path) -> None:
    server.say = Talk(seconds=0.1)
    words = ["llm=openai_compatible", f"llm.base_url={server.url}", "llm.model=openai:m", "output_dir=data"]
    program = [sys.executable, "-m", "lightning_rlhf.cli", "generate-dataset", *words, "num_exchanges=4"]
    process = subprocess.Popen(program, cwd=tmp_path, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + 120
    while len(server.requests) < 20:
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert b"Traceback" not in stderr
    kept = sum(len(entry["messages"]) for entry in lines(tmp_path, "conversations"))
    assert kept == len(server.requests)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_conversations": 0}, "num_conversations=0: must be positive"),
        ({"num_exchanges": 0}, "num_exchanges=0: must be positive"),
        ({"memory": 0}, "memory=0: must be positive"),
        ({"max_usd": 1.0}, "max_usd=1.0: the prices of the model are not known"),
    ],
)
def test_a_wrong_setting_is_named_and_nothing_is_written(
    settings: dict[str, Any], message: str, generate: Generate, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        generate(**settings)
    assert not (tmp_path / "data").exists()
