"""Passwords and tokens stay out of what a run writes and prints."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support import TINY, cold_command, command, keep

SECRET = "swordfish-4711"


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A server of rewards, and the tokens that it gets."""
    tokens: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            tokens.append(self.headers.get("Authorization", ""))
            batch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps({"scores": [len(response) / 100 for response in batch["responses"]]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Prints nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}/score", tokens
        http.shutdown()


def holding(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_password_in_a_url_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    url = f"reward.function.url=http://me:{SECRET}@127.0.0.1:9/score"
    for more in ([], ["-m"]):
        done = command(tmp_path, *more, "stage=ppo", "model=tiny", "reward=http", url)
        assert done.returncode == 2
        assert done.stderr.count("reward.function.url: the password of a URL would be written to the files") == 1
        assert SECRET not in done.stdout + done.stderr
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_no_file_of_a_run_holds_the_token_of_a_server_or_a_key(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    url, tokens = server
    names = ("MY_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "HF_TOKEN")
    keys = {name: f"{SECRET}-{name}".ljust(40, "x") for name in names}
    reward = ("reward=http", f"reward.function.url={url}", "reward.function.token_env=MY_TOKEN")
    folders = {"WANDB_MODE": "offline", "WANDB_DATA_DIR": str(tmp_path)}
    for logger in ("wandb", "tensorboard"):
        done = cold_command(tmp_path, *keep(TINY, "ppo"), *reward, f"logger={logger}", **folders, **keys)
        assert done.returncode == 0, done.stderr
        assert set(tokens) == {f"Bearer {keys['MY_TOKEN']}"}
        assert SECRET not in done.stdout + done.stderr
    assert holding(tmp_path, "MY_TOKEN")  # the name is kept
    assert holding(tmp_path, SECRET) == []
