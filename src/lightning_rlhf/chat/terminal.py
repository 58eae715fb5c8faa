"""The loop of a chat in the terminal."""

import os.path
import re
import signal
import sys
from collections.abc import Callable, Iterator

from rich.cells import cell_len
from rich.text import Text

from lightning_rlhf.chat.commands import COMMANDS, run
from lightning_rlhf.chat.conversation import Conversation, Score
from lightning_rlhf.console import console, number
from lightning_rlhf.errors import UserError
from lightning_rlhf.interruption import signal_of
from lightning_rlhf.rollout.speaker import Reply

_PROMPT = "> "
# A terminal obeys control characters, and a model may have learnt to write them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def talk(conversation: Conversation, score: Score | None = None, read: Callable[[str], str] = input) -> None:
    """Reads lines until the input ends, and answers each.

    Args:
        conversation: The conversation.
        score: Scores each answer, if there is a reward model.
        read: Shows a prompt and reads a line; raises EOFError at the end.
    """
    _edit_lines()
    console.show(f"You talk to {conversation.speaker.name}. /help shows the commands, /quit ends.", "dim")
    while True:
        try:
            line = read(_PROMPT if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        except KeyboardInterrupt as error:
            if signal_of(error) != signal.SIGINT:
                raise
            console.show("\nCtrl-D or /quit ends.", "dim")
            continue
        if line == "/quit":
            return
        if line:
            _obey(conversation, line, score)


def _obey(conversation: Conversation, line: str, score: Score | None) -> None:
    try:
        shown = run(conversation, line) if line.startswith("/") else conversation.say(line)
        if isinstance(shown, str):
            console.show(printable(shown), "dim")
            return
        reply = _show(shown)
        if score is not None and reply is not None:
            console.show(f"score {number(score(conversation.messages, reply.finish_reason == 'stop'))}", "dim")
    except UserError as error:
        console.show(str(error), "yellow")
    except KeyboardInterrupt as error:
        if signal_of(error) != signal.SIGINT:
            raise
        console.show("(not scored)", "dim")


def _show(replies: Iterator[Reply]) -> Reply | None:
    """Writes an answer as it grows, until it ends or Ctrl-C stops it; returns what there is of it."""
    written, reply, width = "", None, console.width
    try:
        for reply in replies:
            # Space at the end is held back until something follows it, so each text begins with the one before.
            text = _in_lines(printable(reply.text), width)
            kept = len(os.path.commonprefix([written, text]))
            # A word that has become too long for its line goes to the next one.
            taken_back = cell_len(written[kept:])
            sys.stdout.write("\b" * taken_back + " " * taken_back + "\b" * taken_back + text[kept:])
            sys.stdout.flush()
            written = text
    except KeyboardInterrupt as error:
        # Ends the generator, which keeps what there is of the answer.
        replies.close()  # type: ignore[attr-defined]
        if signal_of(error) != signal.SIGINT:
            raise
    sys.stdout.write("\n")
    sys.stdout.flush()
    if reply is None or reply.finish_reason is None:
        console.show("(stopped)", "dim")
    elif reply.finish_reason == "length":
        console.show("(cut off at the length limit)", "dim")
    return reply


def _in_lines(text: str, width: int) -> str:
    """Breaks the lines of a text between words if a terminal of this width would break them within a word."""
    if not console.is_terminal:
        return text
    # In the last column, a cursor may stand in the line or already behind it.
    return "\n".join(line.plain for line in Text(text).wrap(console, width - 1))


def printable(text: str) -> str:
    """Removes the control characters of a text but tabs and newlines."""
    return _CONTROL.sub("", text)


def _edit_lines() -> None:
    """Makes the arrow keys recall and edit earlier lines, and the Tab key complete commands, where Python can."""
    try:
        import readline
    except ImportError:
        return

    def complete(text: str, state: int) -> str | None:
        found = [f"/{name} " for name in [*COMMANDS, "quit"] if f"/{name}".startswith(text)]
        return found[state] if text.startswith("/") and state < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" ")
    readline.parse_and_bind("tab: complete")
