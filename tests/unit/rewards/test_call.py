"""A reward function of the user that fails is told in one message: its name, the response, and the user's own lines."""

import re
import sys
import threading
import time
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_rlhf import TextReward, waiting
from lightning_rlhf.errors import UserError
from lightning_rlhf.rewards import call

RESPONSES = ["one", "two", "three", "4", "five"]
CODE = """
import json

def number(text):
    return json.loads(text)["score"]

def score(prompts, responses):
    return [number(response) for response in responses]
"""


def ask(function: Any, responses: list[str] = RESPONSES, **columns: Any) -> list[float]:
    rows = [{name: column[row] for name, column in columns.items()} for row in range(len(responses))]
    return TextReward(function)([f"q{row}" for row in range(len(responses))], responses, rows)


def written(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> str:
    """The name of a module in the current folder that contains the code."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    name = f"rewards_of_{folder.name.replace('-', '_')}"
    (folder / f"{name}.py").write_text(code)
    return name


def test_an_error_names_the_function_the_response_and_the_lines_of_the_user_but_not_those_of_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = written(tmp_path, monkeypatch, CODE)
    right = '{"score": 1}'
    with pytest.raises(UserError) as error:
        ask(f"{name}:score", [right, right, "three", right])
    lines = str(error.value).splitlines()
    assert lines[0] == f"{name}:score failed for response 3 of 4, 'three'"
    assert lines[1].startswith("json.decoder.JSONDecodeError: Expecting value")
    # Lines 8 and 5 of the file; the json module comes below them, and this package above.
    assert lines[2:4] == [f"  {name}.py:8 in score", "    return [number(response) for response in responses]"]
    assert f"  {name}.py:5 in number" in lines
    assert "lightning_rlhf" not in str(error.value)
    assert "json/decoder.py" not in str(error.value)
    assert re.fullmatch(r"  \(\d+ more frames, .* HYDRA_FULL_ERROR=1 shows them\)", lines[-1])
    assert type(error.value.__cause__).__name__ == "JSONDecodeError"


@pytest.mark.parametrize("bad", range(5))
def test_the_first_response_that_fails_is_found(bad: int) -> None:
    def score(prompts: list[str], responses: list[str], level: list[int]) -> list[float]:
        return [1 / (bad - number if number <= bad else 1) for number in level]

    with pytest.raises(UserError, match=rf"^score failed for response {bad + 1} of 5, '{RESPONSES[bad]}'\nZeroDiv"):
        ask(score, level=range(5))


def test_a_failure_that_no_response_alone_causes_names_the_batch() -> None:
    calls = []

    def whole(prompts: list[str], responses: list[str]) -> list[float]:
        calls.append(len(responses))
        if len(responses) == 5:
            raise RuntimeError("too many")
        return [0.0] * len(responses)

    with pytest.raises(UserError, match=r"^whole failed for a batch of 5 responses\nRuntimeError: too many"):
        ask(whole)
    # The batch, one response on its own, and halves.
    assert len(calls) <= 6


def test_a_lost_connection_is_not_tried_again_for_every_response() -> None:
    calls = []

    def score(prompts: Any, responses: Any) -> list[float]:
        calls.append(len(responses))
        raise ConnectionError("no server")

    with pytest.raises(UserError, match=r"^score failed for a batch of 5 responses\nConnectionError: no server"):
        ask(score)
    # The batch, and a text of three letters: whether the function takes one response.
    assert calls == [5, 3]


def test_a_slow_function_is_not_called_again_for_halves_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def score(prompts: Any, responses: Any) -> list[float]:
        calls.append(len(responses))
        return [1 / (response != "4") for response in responses]

    # Whatever takes longer than this is slow.
    monkeypatch.setattr(call, "_SECONDS", -1.0)
    with pytest.raises(UserError, match=r"^score failed for a batch of 5 responses\nZeroDivisionError"):
        ask(score)
    # The batch, and the text of three letters.
    assert calls == [5, 3]


def returns_a_tensor(prompt: str, response: str) -> Tensor:
    return torch.tensor(float(response.strip() == "4"))


def fails_with_lists(prompt: str, response: str) -> float:
    return float(response.strip() == "4")


def returns_one_number(prompt: str, response: str) -> float:
    return float(len(response))


@pytest.mark.parametrize("function", [fails_with_lists, returns_one_number, returns_a_tensor])
def test_a_function_of_one_response_is_told_how_to_become_one_of_a_batch(function: Any) -> None:
    name = function.__name__
    with pytest.raises(UserError, match=f"^{name} takes one prompt and one response, but is given lists") as error:
        ask(function)
    names: dict[str, Any] = {name: function}
    exec("\n".join(line[4:] for line in str(error.value).splitlines()[1:]), names)
    assert ask(names["score"]) == [function("", response) for response in RESPONSES]


@pytest.mark.parametrize(
    ("function", "shown"),
    [
        (lambda responses: [], "<lambda>(responses)"),
        (lambda *, completions: [], "<lambda>(*, completions)"),
        (lambda: [], "<lambda>()"),
    ],
)
def test_a_function_that_does_not_take_prompts_and_responses_is_refused_at_once(function: Any, shown: str) -> None:
    with pytest.raises(UserError, match=rf"^{re.escape(shown)}: must take a list of prompts and a list of responses"):
        TextReward(function)


def test_a_message_for_the_user_from_the_function_stays_as_it_is() -> None:
    def score(prompts: list[str], responses: list[str]) -> list[float]:
        raise UserError("url=http://x: no answer")

    with pytest.raises(UserError, match="^url=http://x: no answer$"):
        ask(score)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def score(:\n", r"importing '{name}' fails\n  File .*{name}.py\", line 1\n.*\nSyntaxError"),
        (
            "LIMIT = 1 / 0\n",
            r"importing '{name}' fails\nZeroDivisionError: division by zero\n  {name}.py:1 in <module>",
        ),
        ("import no_such_thing\n", r"cannot import 'no_such_thing'; is it installed, in the current folder, or on"),
    ],
)
def test_a_module_that_cannot_be_imported_says_where(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = written(tmp_path, monkeypatch, code)
    with pytest.raises(UserError, match=re.compile(f"^'{name}:score': {message.format(name=name)}", re.DOTALL)):
        TextReward(f"{name}:score")


@pytest.mark.parametrize("stop", [sys.exit, lambda: sys.exit("no key"), lambda: sys.exit(0)])
def test_a_function_that_exits_is_an_error_of_the_function_and_not_the_end_of_the_run(stop: Any) -> None:
    def score(prompts: list[str], responses: list[str]) -> list[float]:
        stop()
        return []

    with pytest.raises(UserError, match=r"^score failed for response 1 of 5, 'one'\nSystemExit"):
        ask(score)


def test_a_module_that_exits_when_it_is_imported_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = written(tmp_path, monkeypatch, "raise SystemExit(3)\n")
    with pytest.raises(UserError, match=f"^'{name}:score': importing '{name}' fails\nSystemExit: 3\n  {name}.py:1"):
        TextReward(f"{name}:score")


def test_a_function_that_hangs_is_an_error_after_its_timeout() -> None:
    ended = threading.Event()

    def score(prompts: list[str], responses: list[str]) -> list[float]:
        ended.wait(10)
        return [0.0] * len(responses)

    rows: list[dict[str, object]] = [{}] * 5
    with pytest.raises(UserError, match=r"^score has not returned within timeout=0.2 s for a batch of 5 responses: "):
        TextReward(score, timeout=0.2)(RESPONSES, RESPONSES, rows)
    ended.set()


def test_a_limited_function_runs_as_without_a_limit_and_its_own_time_outs_are_its_own() -> None:
    def score(prompts: list[str], responses: list[str]) -> list[float]:
        if responses == RESPONSES:
            return [float(torch.is_grad_enabled())] * 5
        raise TimeoutError("of mine")

    with torch.no_grad():
        assert TextReward(score, timeout=60)(RESPONSES, RESPONSES, [{}] * 5) == [0.0] * 5
    assert TextReward(score, timeout=60)(RESPONSES, RESPONSES, [{}] * 5) == [1.0] * 5
    with pytest.raises(UserError, match="^score failed for a batch of 1 responses\nTimeoutError: of mine"):
        TextReward(score, timeout=60)(["a"], ["b"], [{}])


def test_while_a_function_does_not_return_a_line_says_what_is_waited_for(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    monkeypatch.setattr(waiting, "FIRST_LINE", 0.05)

    def score(prompts: list[str], responses: list[str]) -> list[float]:
        start = time.monotonic()
        while len(said) < 2 and time.monotonic() - start < 10:
            time.sleep(0.01)
            said.extend(capfd.readouterr().err.splitlines())
        return [0.0] * len(responses)

    ask(score)
    assert said[:2] == ["waiting for score, for 0.05 s now", "waiting for score, for 0.1 s now"]
    time.sleep(0.3)
    assert "waiting" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "returned a value of type NoneType"),
        ("12345", "returned a value of type str"),
        ([1.0, 2.0], "returned 2 scores for 5 responses"),
        ([1.0, None, 1.0, 1.0, 1.0], "returned None for response 2 of 5, 'two'; a score is a finite number"),
        ([1.0, "2", 1.0, 1.0, 1.0], "returned '2' for response 2 of 5, 'two'; a score is a finite number"),
        ([1.0, nan, 1.0, 1.0, 1.0], "returned nan for response 2 of 5, 'two'; a score is a finite number"),
    ],
)
def test_a_wrong_result_names_the_function_and_its_place(
    returned: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = written(tmp_path, monkeypatch, "RESULT = []\n\ndef score(prompts, responses):\n    return RESULT[0]\n")
    function = TextReward(f"{name}:score")
    sys.modules[name].RESULT[:] = [returned]  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=f"^{name}:score {re.escape(message)}") as error:
        function(RESPONSES, RESPONSES, [{}] * 5)
    assert f" ({name}.py:3)" in str(error.value)
