"""The web application of the chat page. It keeps no conversation: the page sends what was said with each request."""

import itertools
import json
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, Literal, cast

import anyio
import anyio.to_thread
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from lightning_rlhf.chat.conversation import Score
from lightning_rlhf.data.messages import Message
from lightning_rlhf.errors import UserError
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.rollout.speaker import Reply, Speaker
from lightning_rlhf.seeding import SAMPLING, RandomKey
from lightning_rlhf.web.chat.feedback import Feedback
from lightning_rlhf.web.common.app import page_app
from lightning_rlhf.web.markdown import to_html

_FILES = ("page.css", "page.js", "chat.js", "show.js")
_LONGEST_TEXT = 200_000
_MOST_TURNS = 1000


class _Turn(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(max_length=_LONGEST_TEXT)]


_Turns = Annotated[list[_Turn], Field(min_length=1, max_length=_MOST_TURNS)]


class _Question(BaseModel):
    model: Annotated[int, Field(ge=0)]
    messages: _Turns
    temperature: float
    top_p: float
    max_new_tokens: Annotated[int, Field(le=100_000)]


class _Shown(BaseModel):
    messages: _Turns
    finished: bool


class _Thumb(BaseModel):
    messages: _Turns
    answer: Annotated[str, Field(max_length=_LONGEST_TEXT)]
    up: bool | None


def make_app(
    speakers: Sequence[Speaker],
    sampling: Sampling,
    feedback: Feedback,
    *,
    system: str = "",
    score: Score | None = None,
    seed: int = 0,
    host: str = "127.0.0.1",
    password: str | None = None,
) -> FastAPI:
    """Makes the application.

    Args:
        speakers: One model, or two that are shown side by side.
        sampling: Settings with which the page begins.
        feedback: Where thumbs go.
        system: System prompt with which the page begins.
        score: Scores each answer, if there is a reward model.
        seed: Seed of the answers; each answer has its own random numbers.
        host: Address at which the application listens.
        password: Password of the page; None for none.
    """
    app = page_app("chat", __package__, _FILES, host=host, password=password)

    # Answers of one model are drawn one after the other, and those of two models at the same time. A lock would not do,
    # because the task that ends an answer need not be the one that has begun it.
    turns = [anyio.Semaphore(1) for _ in speakers]
    scoring = anyio.Semaphore(1)
    numbers = itertools.count()

    @app.get("/settings")
    async def settings() -> dict[str, Any]:
        return {
            "models": [speaker.name for speaker in speakers],
            "system": system,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_new_tokens": sampling.max_new_tokens,
            "scored": score is not None,
        }

    @app.post("/answer")
    async def answer(question: _Question) -> StreamingResponse:
        if question.model >= len(speakers):
            raise HTTPException(422, f"model={question.model}: there are {len(speakers)}")
        chosen = {name: getattr(question, name) for name in ("temperature", "top_p", "max_new_tokens")}
        with _told():
            own = replace(sampling, **chosen)
        key = RandomKey(seed, (SAMPLING, next(numbers)), row=0)
        speaker, turn = speakers[question.model], turns[question.model]
        lines = _lines(lambda: speaker.stream(_plain(question.messages), own, key), turn)
        return _Closing(lines, media_type="application/x-ndjson")

    @app.post("/shown")
    async def shown(given: _Shown) -> dict[str, Any]:
        messages = _plain(given.messages)
        found: dict[str, Any] = {"html": await anyio.to_thread.run_sync(to_html, messages[-1]["content"])}
        if score is not None:
            async with scoring:
                with _told():
                    found["score"] = await anyio.to_thread.run_sync(score, messages, given.finished)
        return found

    @app.post("/thumb")
    def thumb(given: _Thumb) -> dict[str, int]:
        try:
            return feedback.rate(_plain(given.messages), given.answer, given.up)._asdict()
        except OSError as error:
            raise HTTPException(507, f"the thumb cannot be saved: {error}") from error

    return app


class _Closing(StreamingResponse):
    """A response that closes its iterator when the page stops reading, so that the answer is drawn no further."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await cast(AsyncGenerator[str, None], self.body_iterator).aclose()


async def _lines(start: Callable[[], Any], turn: anyio.Semaphore) -> AsyncGenerator[str, None]:
    """Yields the answer as JSON lines: what each adds to the text, and at the end why the answer ended."""
    async with turn:
        replies, written = start(), ""
        try:
            while (reply := await anyio.to_thread.run_sync(_next, replies)) is not None:
                line = {"add": reply.text[len(written) :], "tokens": reply.num_tokens, "end": reply.finish_reason}
                written = reply.text
                yield json.dumps(line) + "\n"
        except UserError as error:
            yield json.dumps({"error": str(error)}) + "\n"
        finally:
            replies.close()


def _next(replies: Any) -> Reply | None:
    return next(replies, None)


@contextmanager
def _told() -> Iterator[None]:
    """Context in which a mistake of the user becomes the message of the response."""
    try:
        yield
    except UserError as error:
        raise HTTPException(422, str(error)) from error


def _plain(turns: Sequence[_Turn]) -> list[Message]:
    return [Message(role=turn.role, content=turn.content) for turn in turns]
