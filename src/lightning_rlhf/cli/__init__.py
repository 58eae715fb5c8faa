"""The command line: `lightning-rlhf COMMAND overrides…`. Each command is a Hydra app in the file of the same name.

A hyphen in the name of a command is an underscore in the name of its file, and of its configuration in conf/.
"""

import importlib
import signal
import sys
from pathlib import Path

from lightning_rlhf.errors import UserError

COMMANDS = (
    "train",
    "plan",
    "doctor",
    "benchmark",
    "report",
    "export",
    "convert",
    "fetch-smollm2",
    "serve-reward",
    "generate-dataset",
    "score-dataset",
    "import-dataset",
    "label",
    "evaluate",
    "chat",
)


def main(command: str | None = None) -> None:
    """Runs a command, or answers what needs no libraries: help, versions and the Tab key.

    Args:
        command: Name of the command; None if the first argument names it.
    """
    words = sys.argv[1:] if command is None else [command, *sys.argv[1:]]
    try:
        answer = _answer(words)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if answer is not None:
        # Ends quietly where the reader does, as `head` does.
        if hasattr(signal, "SIGPIPE"):
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        print(answer)
        return
    module = importlib.import_module(f"{__name__}.{words[0].replace('-', '_')}")
    if command is None:
        # Lightning starts the other processes of a node with this command line. Make it look as if Python had been
        # started with the file of the command, and not with `-m`.
        sys.argv = [str(Path(str(module.__file__))), *words[1:]]
        sys.modules["__main__"].__spec__ = None
    module.main()


def _answer(words: list[str]) -> str | None:
    """The text that answers a command line at once; None if a command must run.

    Raises:
        UserError: If there is no such command, option of a group, or shell.
    """
    from lightning_rlhf.cli import completion, help

    given = set(words)
    if given & {"-sc", "--shell-completion"}:
        return completion.answer(words, COMMANDS)
    if "--version" in given:
        return help.versions()
    if not words or words[0] in ("-h", "--help"):
        return help.overview(COMMANDS)
    if words[0] not in COMMANDS:
        raise UserError(f"unknown command {words[0]!r}; known: {', '.join(COMMANDS)}")
    if given & {"-h", "--help"}:
        return help.of_command(words[0], words[1:])
    return None
