"""Serves a reward model over HTTP, in the protocol that `HTTPReward` speaks."""

import asyncio
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Literal, Self

import torch

from lightning_rlhf.data import fields
from lightning_rlhf.errors import UserError
from lightning_rlhf.rewards.net import TextNetReward

if TYPE_CHECKING:
    from fastapi import FastAPI

LONGEST = 1_000_000
"""Characters of a text: more than models read, and few enough for a tokenizer, which takes 45 bytes for each."""


def make_app(reward: TextNetReward, name: str, batch_size: int) -> "FastAPI":
    """Makes the web application: `POST /score` and `GET /health`.

    Args:
        reward: The model, in evaluation mode.
        name: Name of the model in the answer of `/health`.
        batch_size: Number of answers that the model scores at a time.
    """
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.concurrency import run_in_threadpool
    from pydantic import BaseModel, Field, StringConstraints, model_validator

    Text = Annotated[str, StringConstraints(max_length=LONGEST)]

    class Message(BaseModel):
        role: Literal["system", "user", "assistant"]
        content: Text

    class Batch(BaseModel):
        prompts: list[Text]
        responses: list[Text]
        messages: list[Annotated[list[Message], Field(min_length=1)]] | None = None
        finished: list[bool] | None = None

        @model_validator(mode="after")
        def check_lengths(self) -> Self:
            for field in ("prompts", "messages", "finished"):
                rows = getattr(self, field)
                if rows is not None and len(rows) != len(self.responses):
                    raise ValueError(f"{len(rows)} {field} for {len(self.responses)} responses")
            return self

    app = FastAPI(title="lightning-rlhf serve-reward")
    # Only one request at a time may use the model, so that batch_size bounds its memory.
    lock = asyncio.Lock()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"name": name, "kind": "reward_model"}

    @torch.inference_mode()
    def scored(conversations: list[list[fields.Message]], finished: list[bool]) -> list[float]:
        return reward.score(conversations, finished).tolist()

    @app.post("/score")
    async def score(batch: Batch, request: Request) -> dict[str, list[float]]:
        before: list[list[fields.Message]] = (
            [[{"role": turn.role, "content": turn.content} for turn in messages] for messages in batch.messages]
            if batch.messages
            else [[{"role": "user", "content": prompt}] for prompt in batch.prompts]
        )
        conversations: list[list[fields.Message]] = [
            [*messages, {"role": "assistant", "content": response}]
            for messages, response in zip(before, batch.responses, strict=True)
        ]
        finished = batch.finished or [True] * len(conversations)
        scores: list[float] = []
        try:
            for start in range(0, len(conversations), batch_size):
                async with lock:
                    if await request.is_disconnected():
                        raise HTTPException(499, "the client has left")
                    rows = slice(start, start + batch_size)
                    scores += await run_in_threadpool(scored, conversations[rows], finished[rows])
        except UserError as error:
            raise HTTPException(422, str(error)) from error
        if not all(map(isfinite, scores)):
            # JSON has no NaN: the web framework would fail, or replace it by null.
            raise HTTPException(500, f"{name} gives scores that are not finite: its weights are broken, or overflow")
        return {"scores": scores}

    return app
