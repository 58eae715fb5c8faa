"""What a user can tell the terminal instead of the model: lines that begin with a slash."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from lightning_rlhf.chat.conversation import Conversation, save
from lightning_rlhf.errors import UserError
from lightning_rlhf.rollout.speaker import Reply

SAVED = "chats.jsonl"
"""Where conversations go if the user names no file."""

Answer = Iterator[Reply]
Command = Callable[[Conversation, str], str | Answer]
"""Does what the user asks, and returns what to show: a line, or an answer that is being drawn."""


def run(conversation: Conversation, line: str) -> str | Answer:
    """Runs a line that begins with a slash.

    Raises:
        UserError: If there is no such command, or it does not understand what follows.
    """
    name, _, rest = line[1:].partition(" ")
    if name not in COMMANDS:
        raise UserError(f"there is no /{name}; /help shows what there is")
    return COMMANDS[name](conversation, rest.strip())


def _system(conversation: Conversation, text: str) -> str:
    conversation.system = text
    return "The system prompt is set." if text else "There is no system prompt any more."


def _temperature(conversation: Conversation, text: str) -> str:
    if text:
        try:
            value = float(text)
        except ValueError as error:
            raise UserError(f"/temperature {text}: expected a number, such as 0.7; 0 is greedy") from error
        conversation.sampling = replace(conversation.sampling, temperature=value)
    return f"The temperature is {conversation.sampling.temperature:g}."


def _regenerate(conversation: Conversation, _: str) -> Answer:
    return conversation.regenerate()


def _undo(conversation: Conversation, _: str) -> str:
    return f"Took back: {conversation.undo()}"


def _save(conversation: Conversation, text: str) -> str:
    file = Path(text or SAVED).expanduser()
    save(conversation, file)
    return f"Saved in {file}."


def _history(conversation: Conversation, _: str) -> str:
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in conversation.messages) or "Nothing yet."


def _new(conversation: Conversation, _: str) -> str:
    conversation.turns.clear()
    return "A new conversation."


def _help(_: Conversation, __: str) -> str:
    return "\n".join(f"{usage:<20} {meaning}" for usage, meaning in HELP.items())


COMMANDS: dict[str, Command] = {
    "system": _system,
    "temperature": _temperature,
    "regenerate": _regenerate,
    "undo": _undo,
    "save": _save,
    "history": _history,
    "new": _new,
    "help": _help,
}
"""The commands by their names; `/quit` is one too, which the loop knows itself."""

HELP = {
    "/system TEXT": "tells the model how to behave; without a text, nothing",
    "/temperature NUMBER": "sets how random answers are; 0 always takes the likeliest token",
    "/regenerate": "draws the last answer again",
    "/undo": "takes back your last turn and its answer",
    "/save FILE": f"appends the conversation to a file that stage=sft reads ({SAVED})",
    "/history": "shows the conversation",
    "/new": "begins a new conversation",
    "/help": "shows the commands",
    "/quit": "ends; Ctrl-D does so too, and Ctrl-C stops an answer",
}
