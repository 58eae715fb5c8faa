"""A conversation with a trained model: its turns, and how the next answer is drawn."""

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lightning_rlhf.data.messages import Message
from lightning_rlhf.errors import UserError
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.rollout.speaker import Reply, Speaker
from lightning_rlhf.saving import json_lines
from lightning_rlhf.seeding import SAMPLING, RandomKey

Score = Callable[[list[Message], bool], float]
"""Scores a conversation that ends with an answer; the second argument tells whether the answer is complete."""


def fresh_seed() -> int:
    """Returns a seed that nobody has used before."""
    return secrets.randbits(31)


@dataclass
class Conversation:
    """A conversation with one model.

    Attributes:
        speaker: The model.
        sampling: Settings of the next answer.
        seed: Seed of all answers; each answer has its own random numbers.
        system: What the model is told before the first turn; empty for nothing.
        turns: The turns of the user and of the model, without the system's.
    """

    speaker: Speaker
    sampling: Sampling
    seed: int = field(default_factory=fresh_seed)
    system: str = ""
    turns: list[Message] = field(default_factory=list)
    _drawn: int = 0

    @property
    def messages(self) -> list[Message]:
        """The conversation as the model reads it."""
        before = [Message(role="system", content=self.system)] if self.system else []
        return [*before, *self.turns]

    def say(self, text: str) -> Iterator[Reply]:
        """Adds a turn of the user, and yields the answer as it grows.

        If the caller stops reading, the answer stays as long as it is. If nothing has been drawn, the turn of the user
        is taken back.

        Raises:
            UserError: If the model cannot read the conversation; the turn is taken back.
        """
        self.turns.append(Message(role="user", content=text))
        try:
            yield from self._answer()
        finally:
            if self.turns[-1]["role"] == "user":
                self.turns.pop()

    def regenerate(self) -> Iterator[Reply]:
        """Replaces the last answer by another, and yields it as it grows; the old one comes back if nothing is drawn.

        Raises:
            UserError: If there is no answer.
        """
        if not self.turns:
            raise UserError("/regenerate: there is no answer yet")
        old = self.turns.pop()
        try:
            yield from self._answer()
        finally:
            if self.turns[-1]["role"] == "user":
                self.turns.append(old)

    def undo(self) -> str:
        """Takes back the last turn of the user and its answer.

        Returns:
            What the user had said.

        Raises:
            UserError: If nothing has been said.
        """
        if not self.turns:
            raise UserError("/undo: nothing has been said yet")
        _, said = self.turns.pop(), self.turns.pop()
        return said["content"]

    def _answer(self) -> Iterator[Reply]:
        key = RandomKey(self.seed, (SAMPLING, self._drawn), row=0)
        self._drawn += 1
        reply = None
        try:
            for reply in self.speaker.stream(self.messages, self.sampling, key):
                yield reply
        finally:
            if reply is not None:
                self.turns.append(Message(role="assistant", content=reply.text))


def save(conversation: Conversation, file: Path) -> None:
    """Appends a conversation to a file of JSON lines that `stage=sft` reads, and waits until it is on the disk.

    Raises:
        UserError: If nothing has been said, or the file cannot be written.
    """
    if not conversation.turns:
        raise UserError("/save: nothing has been said yet")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as stream:
            stream.write(json_lines([{"messages": conversation.messages}]))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise UserError(f"/save {file}: cannot be written: {error}") from error
