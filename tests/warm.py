"""Starts Python processes that need not import anything: copies of one that has imported the libraries already.

    process = warm.start(["-m", "lightning_rlhf.cli", "train"], cwd=folder, env=environ())

Importing torch, Lightning and transformers takes seconds, and the tests start hundreds of processes. So this file runs
once as a server beside each process of tests, imports the libraries and nothing else, and forks itself for each
request. The copy has its own environment, folder and output, runs the program as `__main__`, and ends as an
interpreter does: apart from the imports, it is what `python …` would have been.
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

# What the commands import when they run.
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
    """A running copy; what tests use of `subprocess.Popen`."""

    def __init__(self, connection: socket.socket, stdout: Any, stderr: Any) -> None:
        self.connection, self.stdout, self.stderr = connection, stdout, stderr
        self.pid = int(self._line(60))
        self.returncode: int | None = None

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end, and gives what was written to standard output and to standard error.

        Raises:
            TimeoutError: If it has not ended by then.
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
        """Ends it at once, if it has not ended yet."""
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
    """Starts what `python arguments…` would be.

    Args:
        arguments: `-m` and the name of a module, or a script, and its arguments.
        cwd: Its working folder; None: that of the tests.
        env: Its whole environment.
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
    """The address of a server of this process, which is started when it is wanted first."""
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
    # The server ends when this pipe is closed, also by the death of this process.
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
    # Copies leave these objects alone, and so the memory that they share.
    gc.freeze()
    # Nobody waits for the copies that wait for programs.
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
    """In a copy that forks once more: the one waits for the end of the other, which gets the arguments."""
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
