"""Starts Python processes quickly, as copies of a process that has imported the libraries already.

    process = warm.start(["-m", "lightning_rlhf.cli", "train"], cwd=folder, env=environ())

Importing torch, Lightning and transformers takes seconds, and the tests start hundreds of processes. Therefore this
file runs once as a server beside each test process, imports the libraries and nothing else, and forks itself for each
request. The copy has its own environment, folder and output, runs the program as `__main__`, and ends as an
interpreter does. Apart from the imports, it behaves as `python …` would.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# The commands import these when they run.
LIBRARIES = (
    "datasets",
    "lightning.pytorch",
    "matplotlib.figure",
    "peft",
    "torch",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
)
PACKAGE = ("lightning_rlhf.assembly.run",)


class Process:
    """A running copy, with the methods of `subprocess.Popen` that the tests use."""

    def __init__(self, connection: socket.socket, stdout: Any, stderr: Any) -> None:
        self.connection, self.stdout, self.stderr = connection, stdout, stderr
        self.pid = int(self._line(60))
        self.returncode: int | None = None

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end, and returns standard output and standard error.

        Raises:
            TimeoutError: If the process has not ended within `timeout` seconds.
        """
        if self.returncode is None:
            self.returncode = int(self._line(timeout))
            self.connection.close()
        texts = []
        for file in (self.stdout, self.stderr):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
        return texts[0], texts[1]

    def kill(self) -> None:
        """Kills the process if it has not ended yet."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    def _line(self, timeout: float | None) -> str:
        self.connection.settimeout(timeout)
        text = b""
        while not text.endswith(b"\n"):
            part = self.connection.recv(1)
            assert part, "the server of warm processes has ended"
            text += part
        return text.decode()


def start(
    arguments: list[str],
    *,
    cwd: Path | None = None,
    env: dict[str, str],
    merged: bool = False,
    imported: tuple[str, ...] = PACKAGE + LIBRARIES,
) -> Process:
    """Starts a process that does what `python arguments…` would.

    Args:
        arguments: `-m` and the name of a module, or a script; then its arguments.
        cwd: The working folder; None for that of the tests.
        env: The whole environment.
        merged: Whether standard error goes to standard output.
        imported: Modules that it has imported already.
    """
    stdout, stderr = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 (`communicate` reads them)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(_server(imported))
    files = [stdout.fileno(), (stdout if merged else stderr).fileno()]
    request = json.dumps({"arguments": arguments, "cwd": str(cwd or Path.cwd()), "env": env}).encode()
    socket.send_fds(connection, [len(request).to_bytes(8, "big")], files)
    connection.sendall(request)
    return Process(connection, stdout, stderr)


@functools.cache
def _server(imported: tuple[str, ...]) -> str:
    """Returns the address of a server of this process, and starts the server in the first call."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address = f"{folder}/socket"
    server = subprocess.Popen(
        [sys.executable, __file__, address, *imported],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    assert server.stdin is not None
    assert server.stdout.read(1) == b"."
    # The server ends when this pipe is closed, which also happens if this process dies.
    atexit.register(server.stdin.close)
    return address


def _serve(address: str, imported: list[str]) -> list[str] | None:
    """Forks for each request; gives the arguments of the program to the copy that is to become it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    for name in imported:
        importlib.import_module(name)
    gc.collect()
    # The garbage collector of a copy then leaves these objects alone, so their memory stays shared.
    gc.freeze()
    # The server does not wait for the copies that wait for programs.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.write(1, b".")
    while listener in select.select([listener, 0], [], [])[0]:
        connection = listener.accept()[0]
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _become(connection)
        connection.close()
    return None


def _become(connection: socket.socket) -> list[str]:
    """Forks the copy once more: one of the two waits for the other, which gets the arguments."""
    size, files, *_ = socket.recv_fds(connection, 8, 2)
    text = connection.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
    request = json.loads(text)
    if pid := os.fork():
        connection.sendall(f"{pid}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        connection.sendall(f"{code}\n".encode())
        os._exit(0)
    connection.close()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in enumerate(files, 1):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    return request["arguments"]


def _run(arguments: list[str]) -> None:
    """Runs a module or a script as `python` does."""
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if arguments[0] == "-m":
        sys.path[:1] = [os.getcwd(), *given]
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[:1] = [str(Path(arguments[0]).parent), *given]
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    program = _serve(sys.argv[1], sys.argv[2:])
    if program is not None:
        _run(program)
