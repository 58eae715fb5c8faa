"""Signals that stop a process, in real processes."""

import os
import pty
import signal
import subprocess
import sys

import pytest

from lightning_rlhf import interruption
from lightning_rlhf.interruption import Interrupted, signal_of

CODE = """
import sys, time
from lightning_rlhf.interruption import STOPPING, handle, interrupt, signal_of
handle(STOPPING, interrupt)
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt as error:
    print("x" * 100_000, flush=True)
    print("x" * 100_000, file=sys.stderr, flush=True)
    sys.exit(128 + signal_of(error))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_process_with_the_code_that_a_shell_expects(number: int, code: int) -> None:
    # An own group, so that the signals of the terminal of the tests do not reach it.
    process = subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, process_group=0)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == code
    # A pipe is no terminal: it may lead to a file that somebody reads.
    assert output == b"x" * 100_000 + b"\n"


def test_a_process_whose_terminal_is_closed_may_still_print() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", CODE])
    assert os.read(terminal, 5) == b"ready"
    os.close(terminal)
    # Printing to the closed terminal would be an OSError, and the code 1.
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 129


def test_a_process_that_ignores_a_signal_keeps_ignoring_it() -> None:
    code = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN){CODE.replace('60', '0.5')}"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=30) == (b"", None)
    assert process.returncode == 0


def test_an_interruption_by_a_library_counts_as_ctrl_c() -> None:
    assert signal_of(KeyboardInterrupt()) == signal.SIGINT
    assert signal_of(Interrupted(signal.SIGHUP)) == signal.SIGHUP


def test_a_signal_that_was_only_noted_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "_noted", [])
    assert interruption.noted() == 0
    interruption.note(signal.SIGTERM, None)
    interruption.note(signal.SIGHUP, None)
    assert interruption.noted() == signal.SIGHUP


def test_a_handler_that_cannot_print_is_silent(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    read, write = os.pipe()
    monkeypatch.setattr(interruption, "_STDERR", write)
    interruption.say_from_handler("stopping")
    assert os.read(read, 100) == b"\nstopping\n"
    os.close(read)
    # Nobody reads the pipe, so that writing is an OSError, as it is at a closed terminal.
    with pytest.raises(BrokenPipeError):
        os.write(write, b"x")
    interruption.say_from_handler("stopping")
    os.close(write)
    assert capfd.readouterr() == ("", "")


def test_an_interruption_within_a_destructor_comes_again_without_a_traceback() -> None:
    program = """
import os, signal, sys, time
from lightning_rlhf.interruption import Interrupted, handle, interrupt, repeat_swallowed

class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

handle((signal.SIGTERM,), interrupt)
repeat_swallowed()
try:
    Dying()
    time.sleep(30)
except Interrupted as error:
    sys.exit(error.number)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (signal.SIGTERM, "")
