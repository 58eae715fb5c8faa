"""Each of several processes ends with its own exit code, whatever the threads of its process groups are doing."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import environ, free_port

# This provokes what otherwise happens rarely: the main thread holds Python's lock, so the thread of gloo, which has to
# release the tensor, is still waiting for the lock when the interpreter finalizes.
EXCHANGE = """
import atexit, builtins, os, sys, time
{imports}
import torch
import torch.distributed as dist

def exchange():
    dist.init_process_group("gloo")
    {held}
    numbers = builtins.numbers = torch.ones(4)
    sys.setswitchinterval(100)
    dist.all_reduce(numbers, async_op=True)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        pass
    {last}

{program}
"""
LIBRARY = {"imports": "import lightning_rlhf.distributed", "program": "exchange()"}
COMMAND = {"imports": "from lightning_rlhf.cli.app import run_app", "program": "run_app(exchange)"}
# The caches of DTensor hold it in this way, so that it cannot be destroyed.
HELD = "builtins.held = dist.group.WORLD"


# The other rank never joins the exchange, and stays alive.
ONE_SIDED = """
import sys
from lightning_rlhf.cli.app import run_app
from lightning_rlhf.errors import UserError
import torch
import torch.distributed as dist

def exchange():
    dist.init_process_group("gloo")
    if dist.get_rank() == 1:
        sys.stdin.read()
    dist.all_reduce(torch.ones(4), async_op=True)
    raise UserError("too few rows")

run_app(exchange)
"""


def both_ranks(folder: Path, held: str = "", last: str = "", **script: str) -> list[tuple[int, str]]:
    """Returns exit codes and output of two processes that exchange a tensor and end."""
    ranks = started(folder / "exchange.py", EXCHANGE.format(held=held, last=last, **script))
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    return [(rank.returncode, text) for rank, text in zip(ranks, said, strict=True)]


def started(file: Path, script: str) -> list[subprocess.Popen[str]]:
    """Starts two processes that run a script."""
    file.write_text(script)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    return [
        subprocess.Popen(
            [sys.executable, str(file)],
            env=environ(**shared, RANK=str(rank)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python 3.14 lets threads wait for ever instead")
def test_without_this_package_the_process_is_aborted(tmp_path: Path) -> None:
    """The script below aborts without the remedy. If torch mends this, `distributed.shutdown` can go."""
    ends = both_ranks(tmp_path, imports="", program="exchange()")
    # On a busy machine, a rank may end before its threads meet the interpreter that is gone.
    aborted = [text for code, text in ends if code == -signal.SIGABRT]
    assert aborted
    assert all("terminate called without an active exception" in text for text in aborted)


@pytest.mark.parametrize("held", ["", HELD])
def test_a_program_that_uses_this_package_ends_well(held: str, tmp_path: Path) -> None:
    assert both_ranks(tmp_path, held, **LIBRARY) == [(0, "")] * 2


def test_a_program_that_fails_ends_with_its_own_code(tmp_path: Path) -> None:
    ends = both_ranks(tmp_path, last="raise RuntimeError('the data are gone')", **LIBRARY)
    assert [code for code, _ in ends] == [1, 1]
    assert all(text.endswith("RuntimeError: the data are gone\n") for _, text in ends)


def test_a_command_ends_well(tmp_path: Path) -> None:
    assert both_ranks(tmp_path, HELD, **COMMAND) == [(0, "")] * 2


@pytest.mark.parametrize(
    ("last", "code", "says"),
    [
        ("raise UserError('too few rows')", 2, "error: too few rows\n"),
        ("raise SystemExit('no')", 1, "no\n"),
        ("raise AssertionError('a defect')", 1, "AssertionError: a defect\n"),
        ("atexit.register(print, 'closed', flush=True)", 0, "closed\n"),
    ],
)
def test_a_command_keeps_its_exit_code_and_its_last_words(last: str, code: int, says: str, tmp_path: Path) -> None:
    imports = COMMAND["imports"] + "; from lightning_rlhf.errors import UserError"
    ends = both_ranks(tmp_path, HELD, last, imports=imports, program=COMMAND["program"])
    assert [found for found, _ in ends] == [code] * 2
    assert all(text.endswith(says) for _, text in ends)


def test_a_command_that_fails_does_not_wait_for_an_exchange_that_never_ends(tmp_path: Path) -> None:
    first, second = started(tmp_path / "one_sided.py", ONE_SIDED)
    try:
        assert first.communicate(timeout=60)[0] == "error: too few rows\n"
        assert first.returncode == 2
        assert second.poll() is None
    finally:
        for rank in (first, second):
            rank.kill()
            rank.communicate()


def test_a_process_by_itself_exits_as_ever(tmp_path: Path) -> None:
    script = f"{COMMAND['imports']}; import atexit; atexit.register(print, 'late'); run_app(lambda: print('work'))"
    done = subprocess.run([sys.executable, "-c", script], env=environ(), capture_output=True, text=True, timeout=60)
    # Functions that were registered before the program began are called too, so no process leaves before them.
    assert (done.returncode, done.stdout, done.stderr) == (0, "work\nlate\n", "")
