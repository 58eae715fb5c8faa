"""Serves a reward model over HTTP, in the protocol that `HTTPReward` speaks."""

from math import isfinite
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Literal, Self

import torch

from lightning_rlhf.data import fields
from lightning_rlhf.errors import UserError
from lightning_rlhf.rewards.net import TextNetReward

if TYPE_CHECKING:
    from fastapi import FastAPI


def make_app(reward: TextNetReward, name: str, batch_size: int) -> "FastAPI":
    """Makes the web application: `POST /score` and `GET /health`.

    Args:
        reward: The model, in evaluation mode.
        name: Name of the model in the answer of `/health`.
        batch_size: Number of answers that the model scores at a time.
    """
    from fastapi import FastAPI, HTTPException
    from pydantic import BaseModel, Field, model_validator

    class Message(BaseModel):
        role: Literal["system", "user", "assistant"]
        content: str

    class Batch(BaseModel):
        prompts: list[str]
        responses: list[str]
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
    # Requests arrive in several threads. Only one at a time may use the model, so that batch_size bounds its memory.
    lock = Lock()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"name": name, "kind": "reward_model"}

    @app.post("/score")
    def score(batch: Batch) -> dict[str, list[float]]:
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
            with lock, torch.inference_mode():
                for start in range(0, len(conversations), batch_size):
                    rows = slice(start, start + batch_size)
                    scores += reward.score(conversations[rows], finished[rows]).tolist()
        except UserError as error:
            raise HTTPException(422, str(error)) from error
        if not all(map(isfinite, scores)):
            # JSON has no NaN: the web framework would fail, or replace it by null.
            raise HTTPException(500, f"{name} gives scores that are not finite: its weights are broken, or overflow")
        return {"scores": scores}

    return app
