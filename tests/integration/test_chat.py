"""`chat` in a terminal, as a user runs it."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support import cold_command, environ

from lightning_rlhf import ModelSource, Renderer, export_model, load_causal_lm, load_scalar_model


@pytest.fixture(scope="module")
def models(source: ModelSource, renderer: Renderer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    export_model(load_causal_lm(source), renderer, folder / "model", {})
    torch.manual_seed(1)
    export_model(load_scalar_model(source, "normal"), renderer, folder / "reward", {})
    return folder


class Terminal:
    """`chat` in a terminal of its own."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.screen, other = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lightning_rlhf.cli", "chat", *overrides],
            cwd=folder,
            env=environ(TERM="dumb"),
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
            # Ctrl-C reaches a process through its controlling terminal.
            preexec_fn=lambda: (
                os.close(os.open(os.ttyname(other), os.O_RDWR)),
                signal.signal(signal.SIGINT, signal.default_int_handler),
            ),
        )
        os.close(other)
        self.text = ""

    def type(self, line: str) -> None:
        os.write(self.screen, line.encode())

    def wait_for(self, pattern: str, seconds: float = 60) -> str:
        """Waits until the screen shows a pattern after what was waited for before, and returns what came before it."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < end, f"{pattern!r} is not in {self.text!r}"
            if select.select([self.screen], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self.screen, 4096).decode(errors="replace").replace("\r", "")
                except OSError:
                    raise AssertionError(f"ended before {pattern!r}: {self.text!r}") from None
        before, self.text = self.text[: found.start()], self.text[found.end() :]
        return before

    def end(self) -> int:
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            os.close(self.screen)


def test_a_chat_in_a_terminal_from_the_first_word_to_ctrl_d(models: Path, tmp_path: Path) -> None:
    terminal = Terminal(
        tmp_path,
        *(
            f"model_dir={models / 'model'}",
            f"reward_model={models / 'reward'}",
            "seed=1",
            "sampling.max_new_tokens=400",
        ),
    )
    terminal.wait_for(r"/quit ends\.\n> ")
    terminal.type("My kettle leaks.\n")
    time.sleep(0.3)
    terminal.type("\x03")
    terminal.wait_for(r"\(stopped\)\n(score -?[\d.]+\n)?> ")
    terminal.type("/undo\n")
    terminal.wait_for(r"Took back: My kettle leaks\.\n> ")
    terminal.type("/temperature 0\n")
    terminal.wait_for(r"The temperature is 0\.\n> ")
    terminal.type("Hello\n")
    first = terminal.wait_for(r"score -?[\d.]+\n> ")
    terminal.type("/regenerate\n")
    assert terminal.wait_for(r"score -?[\d.]+\n> ").split("\n", 1)[1] == first.split("\n", 1)[1]
    terminal.type("/save\n")
    terminal.wait_for(r"Saved in chats\.jsonl\.\n> ")
    terminal.type("\x03")
    terminal.wait_for(r"Ctrl-D or /quit ends\.\n> ")
    terminal.type("\x04")
    assert terminal.end() == 0
    (row,) = (tmp_path / "chats.jsonl").read_text().splitlines()
    said = json.loads(row)["messages"]
    assert [turn["role"] for turn in said] == ["user", "assistant"]
    assert said[0]["content"] == "Hello"
    assert [path.name for path in tmp_path.iterdir()] == ["chats.jsonl"]


def test_lines_from_a_pipe_are_answered_too(models: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "lightning_rlhf.cli",
            "chat",
            f"model_dir={models / 'model'}",
            "sampling.max_new_tokens=5",
        ],
        cwd=tmp_path,
        env=environ(),
        input="Hello\n/history\n",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "user: Hello\nassistant: " in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "model_dir is not set: give it as model_dir=VALUE"),
        (["model_dir=/nowhere"], "model_dir=/nowhere: "),
        (["model_dir=m", "against=n"], "against=n: the terminal shows one model: add chat.web=true, or leave it out"),
        (["model_dir=m", "seed=-1"], "seed=-1: must not be negative"),
        (["model_dir=m", "chat.port=web"], "chat.port=web: expected a whole number"),
        (
            ["model_dir=m", "chat.web=true", "chat.host=0.0.0.0"],
            "chat: host=0.0.0.0: other machines could use the page",
        ),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(overrides: list[str], message: str, tmp_path: Path) -> None:
    done = cold_command(tmp_path, *overrides, name="chat")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert not list(tmp_path.iterdir())
