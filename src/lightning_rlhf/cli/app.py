"""Runs a Hydra app as users of a command line expect: a mistake gives one message and exit code 2."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from lightning_rlhf.assembly.command_line import in_agreed_folder
from lightning_rlhf.assembly.composition import check_config_folder
from lightning_rlhf.assembly.library_messages import silence_loggers
from lightning_rlhf.assembly.named_code import guard_compositions
from lightning_rlhf.assembly.run_folder import accounted_for
from lightning_rlhf.assembly.sweep import table_even_of_failures
from lightning_rlhf.assembly.user_message import config_of_command, user_message
from lightning_rlhf.console import complain
from lightning_rlhf.distributed.lack_of_memory import count_kills_from_here, killed, ran_out
from lightning_rlhf.distributed.launcher_watch import end_with_launcher, obey_signals, put_off_signals
from lightning_rlhf.distributed.shutdown import without_finalization
from lightning_rlhf.errors import raise_problems
from lightning_rlhf.interruption import Interrupted, interruption_behind, repeat_swallowed, signal_of
from lightning_rlhf.process import prepare_process

# What a shell adds to the number of the signal that has ended a process.
_SIGNALLED = 128
# What gloo, NCCL and the store of PyTorch report when a connection is lost.
_CONNECTION_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "remote process exit",
    "remote server shutdown",
)
# Environment variable that keeps the user's own HYDRA_FULL_ERROR, which `run_app` overwrites.
_TRACEBACK = "LIGHTNING_RLHF_TRACEBACK"


def run_app(app: Callable[[], object]) -> None:
    """Calls a function that `hydra.main` has wrapped, and reports errors of composing the configuration."""
    prepare_process()
    # Without HYDRA_FULL_ERROR, Hydra prints its own shortened traceback and exits with code 1.
    os.environ.setdefault(_TRACEBACK, os.environ.get("HYDRA_FULL_ERROR", "0"))
    os.environ["HYDRA_FULL_ERROR"] = "1"
    silence_loggers()
    repeat_swallowed()
    guard_compositions()
    with exit_codes():
        check_config_folder(sys.argv[1:])
    _find_modules_of_user()
    with without_finalization(), exit_codes(), table_even_of_failures():
        obey_signals()
        count_kills_from_here()
        try:
            app()
        except (HydraException, OmegaConfBaseException) as error:
            if not isinstance(error, InstantiationException) and interruption_behind(error) is None:
                raise_problems(_all_problems())
            raise


def run_ranks(app: Callable[[], object], command: str) -> None:
    """Runs the app of a command on which several processes may work: they share a folder, and end together.

    Args:
        app: A function that `hydra.main` has wrapped. It calls `obey_signals` when its folder is accounted for.
        command: The command, after which the folder is named.
    """
    end_with_launcher()
    with exit_codes():
        sys.argv[1:] = in_agreed_folder(sys.argv[1:], command)

    def start() -> None:
        # Hydra makes the folder of the run. A signal that comes before the work has begun would leave it empty.
        put_off_signals()
        app()

    run_app(start)


def run_job(work: Callable[[Path], object], stages: list[str], overrides: list[str], *, keep: bool = False) -> None:
    """Works in the folder that Hydra has made for a single run, or for a job of a sweep.

    Args:
        work: What to do in the folder.
        stages: The stages that `result.json` names if the work fails before it has written one.
        overrides: The overrides of this run or job.
        keep: Whether the folder stays if nothing was done in it.
    """
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode == RunMode.MULTIRUN:
        # Lightning starts the other processes of a node with these arguments, which must be those of this job.
        sys.argv[1:] = overrides
        # Hydra reports the error of a job when all jobs have ended.
        with accounted_for(folder, stages, keep=True):
            work(folder)
    else:
        with exit_codes(), accounted_for(folder, stages, keep=keep):
            work(folder)


def _find_modules_of_user() -> None:
    """Makes modules in the current folder importable, as they are for `python train.py`.

    Python looks in the folder of the program instead, which is that of the installed program, or, in the processes that
    Lightning starts, that of the command's file.
    """
    here, program = os.getcwd(), str(Path(__file__).parent)
    sys.path[:] = [here, *(folder for folder in sys.path if folder not in (here, program))]


def _all_problems() -> list[str]:
    """All mistakes in a command line that cannot be composed; none if it can be."""
    from lightning_rlhf.assembly.composition import composition_problems
    from lightning_rlhf.assembly.settings import check_settings

    name = config_of_command()
    problems, config = composition_problems(name, sys.argv[1:])
    # The other commands need not have all settings of a run.
    if problems.lines and config is not None and name == "train":
        check_settings(config, problems)
    return problems.lines


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turns a mistake of the user into one message and exit code 2, and a signal into one line and the code of a shell.

    The codes are 130 after Ctrl-C, 143 after SIGTERM, and 129 after SIGHUP.

    A rank that has lost another process ends with one message and code 1, because its own traceback would hide the
    error of that process. HYDRA_FULL_ERROR=1 in the environment shows all tracebacks.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        _end(error)
    except Exception as error:
        if stopped := interruption_behind(error):
            _end(stopped)
        message, lost = user_message(error) or ran_out(error), _lost_process(error)
        if not (message or lost) or os.environ.get(_TRACEBACK) == "1":
            raise
        _say(f"error: {message or lost}")
        sys.exit(2 if message else 1)


def _end(error: KeyboardInterrupt) -> NoReturn:
    """Ends the process after a signal."""
    # A rank that is not the first has nothing to say.
    if said := str(error) if isinstance(error, Interrupted) else "interrupted":
        _say(said)
    sys.exit(_SIGNALLED + signal_of(error))


def _lost_process(error: BaseException) -> str | None:
    """The message for an exchange that failed because the other process has ended; None for any other error."""
    text = str(error)
    if not isinstance(error, RuntimeError) or not any(sign in text for sign in _CONNECTION_LOST):
        return None
    rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    return (
        f"rank {rank} ends because it lost the connection to another process, which has ended "
        f"({text.splitlines()[0]}). That process says why, unless it was killed: {killed()}"
    )


def _say(message: str) -> None:
    complain(message)
