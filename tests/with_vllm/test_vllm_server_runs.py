"""Whole runs of PPO whose vLLM server dies in the middle of the second rollout."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runs import COMPARED, PPO, TWO_PROCESSES, finished, metrics, model
from servers import Server
from support import cold_command, result_of, run_folder

# A reward function that kills the server when it sees the first responses of the second rollout, while others are still
# being sampled.
REWARD = """
import os
from contextlib import suppress
from pathlib import Path

def length(prompts, responses):
    if not Path("killed").exists() and list(Path("outputs").rglob("last.ckpt")):
        Path("killed").touch()
        with suppress(ProcessLookupError):
            os.killpg(int(Path("server").read_text()), 9)
    return [float(len(response)) for response in responses]
"""
RUN = [
    *PPO,
    "ppo.trainer.max_epochs=2",
    "rollout=vllm_server",
    "rollout.micro_batch_size=4",
    "reward=function",
    "rollout.engine.max_connections=2",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(model(), tmp_path_factory.mktemp("server"))
    try:
        yield started.wait()
    finally:
        started.kill()


@pytest.fixture
def run_in(server: Server) -> Callable[[Path], list[str]]:
    """Prepares a run in a folder; its reward kills the server once."""

    def prepare(folder: Path) -> list[str]:
        folder.mkdir()
        (folder / "killing.py").write_text(REWARD)
        (folder / "server").write_text(str(server.process.pid))
        return [*RUN, "reward.function=killing:length", f"rollout.engine.urls=[{server.url}]"]

    return prepare


def test_a_lost_server_stops_the_run_or_is_waited_for_and_the_numbers_stay(
    server: Server, run_in: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    stopped = cold_command(tmp_path / "stops", *run_in(tmp_path / "stops"))
    assert stopped.returncode == 2
    assert stopped.stderr.count(f"the vLLM server {server.url} does not answer") == 1
    assert "Traceback" not in stopped.stderr
    folder = run_folder(tmp_path / "stops")
    assert result_of(folder)["status"] == "failed"
    assert len(metrics(tmp_path / "stops")["rollout/score_mean"]) == 1

    server.start()
    server.wait()
    # A resumed run asks again for what names code.
    goes_on = cold_command(tmp_path / "stops", f"resume={folder}", "reward.function=killing:length")
    assert goes_on.returncode == 0, goes_on.stderr[-3000:]
    resumed = metrics(tmp_path / "stops")

    # Both processes miss the server, and one of them gives it the weights.
    overrides = run_in(tmp_path / "waits")

    def start_again() -> None:
        server.process.wait()
        server.start()

    starter = threading.Thread(target=start_again, daemon=True)
    starter.start()
    waited = finished(tmp_path / "waits", *overrides, *TWO_PROCESSES, "rollout.engine.on_lost=wait")
    assert (tmp_path / "waits" / "killed").exists()
    for name in COMPARED:
        assert len(resumed[name]) == 2, name
        assert waited[name] == pytest.approx(resumed[name], rel=1e-3, abs=1e-5), name
