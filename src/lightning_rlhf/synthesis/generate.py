"""Makes conversations, several at a time, and keeps each one as soon as it is finished."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from lightning_rlhf.chat_models.budget import BudgetSpent, Usage
from lightning_rlhf.chat_models.client import ChatClient
from lightning_rlhf.chat_models.retry import Stopped
from lightning_rlhf.console import console
from lightning_rlhf.errors import UserError, require
from lightning_rlhf.saving import remove, write_json
from lightning_rlhf.synthesis.conversation import Held, hold
from lightning_rlhf.synthesis.data_files import DataFiles, Filter
from lightning_rlhf.synthesis.journal import Journal
from lightning_rlhf.synthesis.progress import CostProgress
from lightning_rlhf.synthesis.roles import Role
from lightning_rlhf.synthesis.templates import Templates

JOURNAL, PLAN = "conversations.jsonl", "plan.json"


class Plan(NamedTuple):
    """What conversations are made. All conversations of a folder are made after the same plan.

    Attributes:
        llm: Name of the model.
        templates: What the roles are told.
        num_exchanges: Number of exchanges of a conversation.
        memory: Number of exchanges that a role remembers.
    """

    llm: str
    templates: Templates
    num_exchanges: int
    memory: int

    def checked(self) -> "Plan":
        """Returns itself; raises `UserError` if a number is not positive."""
        for name in ("num_exchanges", "memory"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: must be positive")
        return self

    def settings(self) -> dict[str, Any]:
        """Returns the settings that determine the text of a conversation."""
        told = {name: text for name, text in asdict(self.templates).items() if name in ("person", "assistant")}
        topics = {"topics": list(self.templates.topics)}
        return {"llm": self.llm, **told, **topics, "num_exchanges": self.num_exchanges, "memory": self.memory}


class Made(NamedTuple):
    """What a folder contains after a process has worked on it.

    Attributes:
        conversations: Number of finished conversations.
        rows: Number of rows of each file.
        dropped: What was left out, and how often.
        stopped: Why conversations are missing; None if all are there.
    """

    conversations: int
    rows: dict[str, int]
    dropped: dict[str, int]
    stopped: str | None


def generate(client: ChatClient, plan: Plan, folder: Path, num_conversations: int, filters: Filter) -> Made:
    """Makes the conversations that a folder lacks, and the files that the stages read.

    A process that is killed loses what it has not yet written: the turns of the conversations that were going on. A
    budget that is spent, and an error of the model, lose nothing: unfinished conversations are kept, and continued by
    the next process.

    Args:
        client: The client of the model, with its budget.
        plan: What conversations are made.
        folder: The folder; if it contains conversations, they count.
        num_conversations: Number of conversations that the folder contains in the end.
        filters: Makes rows of conversations.

    Raises:
        UserError: If the folder contains conversations of another plan, or the model fails for good.
    """
    require("langchain_core", "langchain", "generate-dataset")
    if num_conversations < 1:
        raise UserError(f"num_conversations={num_conversations}: must be positive")
    plan.checked()
    made = next((path for path in (*reversed(folder.parents), folder) if not path.exists()), None)
    journal = Journal(folder / JOURNAL, f"output_dir={folder}")
    try:
        _check_plan(folder / PLAN, plan.settings(), begun=bool(journal.entries))
        return _generate(client, plan, folder, num_conversations, filters, journal)
    except BaseException:
        if made is not None and not journal.entries:
            remove(made)
        raise
    finally:
        journal.close()


def _generate(
    client: ChatClient, plan: Plan, folder: Path, num_conversations: int, filters: Filter, journal: Journal
) -> Made:
    # The last entry of a conversation has all of its turns.
    known = {entry["number"]: entry for entry in journal.entries}
    finished = [entry for entry in journal.entries if entry["finished"]]
    for entry in journal.entries:
        client.budget.restore(Usage(*entry["tokens"]))
    files = DataFiles(folder, filters, finished)
    missing = [number for number in range(num_conversations) if not known.get(number, {}).get("finished")]
    person = Role("user", plan.templates.person, client, plan.memory)
    assistant = Role("assistant", plan.templates.assistant, client, plan.memory)

    def make(number: int) -> tuple[int, Held]:
        turns = known.get(number, {}).get("messages", [])
        return number, hold(person, assistant, plan.templates.topic(number), plan.num_exchanges, turns)

    with CostProgress("conversations", len(finished), num_conversations, client.budget) as progress:

        def keep(number: int, held: Held) -> None:
            if held.finished or held.messages != known.get(number, {}).get("messages", []):
                journal.append(_entry(number, held, plan.templates.topic(number)))
            if held.finished:
                files.add(held.messages, held.ended)
                progress.advance()

        try:
            error = _all(client, make, missing, keep)
        finally:
            files.close()
    if error is not None and not isinstance(error, BudgetSpent):
        raise error
    return Made(progress.done, files.counts, files.dropped, None if error is None else str(error))


def _all(
    client: ChatClient,
    make: Callable[[int], tuple[int, Held]],
    numbers: list[int],
    keep: Callable[[int, Held], None],
) -> Exception | None:
    """Makes conversations in threads, and keeps each one in this thread as soon as it is there.

    Returns:
        What stopped it before all were finished; None if nothing did.
    """
    error: Exception | None = None
    pool = ThreadPoolExecutor(client.max_concurrency)
    futures = {pool.submit(make, number) for number in numbers}

    def stop() -> None:
        # Conversations that are going on end before their next request, and are kept as far as they went.
        client.stop()
        for future in futures:
            future.cancel()

    def take() -> None:
        nonlocal error
        for future in as_completed(list(futures)):
            futures.discard(future)
            if future.cancelled():
                continue
            number, held = future.result()
            keep(number, held)
            if error is None and held.error is not None and not isinstance(held.error, Stopped):
                error = held.error
                stop()

    try:
        take()
    except KeyboardInterrupt:
        stop()
        console.say("waiting for the replies that are under way; another Ctrl-C gives them up")
        take()
        raise
    except BaseException:
        stop()
        raise
    finally:
        pool.shutdown(wait=False)
    client.restart()
    return error


def _entry(number: int, held: Held, topic: str) -> dict[str, Any]:
    return {
        "number": number,
        "topic": topic,
        "finished": held.finished,
        "ended": held.ended,
        "tokens": list(held.usage),
        "messages": held.messages,
    }


def _check_plan(file: Path, settings: Mapping[str, Any], *, begun: bool) -> None:
    """Compares the plan with that of the conversations that the folder has, and writes it if there are none."""
    if not begun or not file.exists():
        write_json(file, settings)
        return
    earlier = json.loads(file.read_text(encoding="utf-8"))
    if changed := [name for name in settings if settings[name] != earlier.get(name)]:
        name = changed[0]
        raise UserError(
            f"output_dir={file.parent}: its conversations were made with another setting of {', '.join(changed)} "
            f"({name} was {str(earlier.get(name))[:60]!r}, and is {str(settings[name])[:60]!r}); choose another folder"
        )
