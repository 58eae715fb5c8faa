"""A model of this package as a chat model of LangChain, sampled by the engine that PPO samples with."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from lightning_rlhf.chat_models.budget import Budget, Prices
from lightning_rlhf.chat_models.client import ChatClient
from lightning_rlhf.data.messages import Message, Role
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.engines.engine import Completion, Request
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.rollout.speaker import speaker_of
from lightning_rlhf.rollout.texts import decoder
from lightning_rlhf.seeding import SAMPLING, RandomKey

_ROLES: dict[str, Role] = {"human": "user", "ai": "assistant", "system": "system"}


class _Asked(NamedTuple):
    prompt: list[int]
    answer: Future[Completion]


class LocalChatModel(BaseChatModel):
    """Answers chats with a model in this process.

    Requests that several threads make at the same time are sampled as one batch.
    """

    max_context: int | None = None
    """Number of tokens that the model can read; None if that is not known."""
    _engine: NativeEngine = PrivateAttr()
    _renderer: Renderer = PrivateAttr()
    _sampling: Sampling = PrivateAttr()
    _seed: int = PrivateAttr()
    _has_system: bool = PrivateAttr()
    _queue: "SimpleQueue[_Asked]" = PrivateAttr()

    def __init__(self, engine: NativeEngine, renderer: Renderer, sampling: Sampling, *, seed: int = 0) -> None:
        """Starts the thread that samples.

        Args:
            engine: Samples responses.
            renderer: Turns messages into tokens.
            sampling: The sampling distribution, and the length limit of a reply.
            seed: Seed of the random numbers; together with the order of the requests, it determines the replies.
        """
        super().__init__()
        self._engine, self._renderer, self._sampling, self._seed = engine, renderer, sampling, seed
        self.max_context = getattr(getattr(engine.net, "config", None), "max_position_embeddings", None)
        probe: list[Message] = [{"role": "system", "content": "Hello"}, {"role": "user", "content": "Hello"}]
        self._has_system = not isinstance(renderer.prompts([probe])[0], UserError)
        self._queue = SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    @property
    def _llm_type(self) -> str:
        return "lightning-rlhf"

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **_: Any
    ) -> ChatResult:
        prompt = self._prompt(messages)
        asked = _Asked(prompt, Future())
        self._queue.put(asked)
        done = asked.answer.result()
        used = {"input_tokens": len(prompt), "output_tokens": len(done.ids)}
        message = AIMessage(
            self._renderer.decode(done.ids),
            usage_metadata={**used, "total_tokens": sum(used.values())},
            response_metadata={"finish_reason": done.finish_reason},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _prompt(self, messages: Sequence[BaseMessage]) -> list[int]:
        """Renders the messages; the oldest exchanges are left out if the model cannot read all."""
        turns: list[Message] = [{"role": _ROLES[message.type], "content": str(message.text)} for message in messages]
        system = turns.pop(0)["content"] if turns[0]["role"] == "system" else ""
        room = None if self.max_context is None else self.max_context - self._sampling.max_new_tokens
        while True:
            ids = self._renderer.prompt(self._told(system, turns))
            if room is None or len(ids) <= room or len(turns) <= 2:
                return ids
            del turns[:2]

    def _told(self, system: str, turns: list[Message]) -> list[Message]:
        """Puts the instructions before the turns, or into the first of them if the template knows no such role."""
        if not system:
            return turns
        if self._has_system:
            return [{"role": "system", "content": system}, *turns]
        first: Message = {"role": turns[0]["role"], "content": f"{system}\n\n{turns[0]['content']}"}
        return [first, *turns[1:]]

    def _work(self) -> None:
        row = 0
        while True:
            some = [self._queue.get()]
            # Others are about to ask, since their last answers came at the same time.
            while len(some) < self._engine.max_rows:
                try:
                    some.append(self._queue.get(timeout=0.02))
                except Empty:
                    break
            keys = [RandomKey(self._seed, (SAMPLING, row + place), 0) for place in range(len(some))]
            row += len(some)
            requests = [Request(asked.prompt, key) for asked, key in zip(some, keys, strict=True)]
            try:
                answers = self._engine.generate(
                    requests, self._sampling, stop_ids=self._renderer.stop_ids, decode=decoder(self._renderer)
                )
            except Exception as error:  # each thread that waits raises it
                for asked in some:
                    asked.answer.set_exception(error)
                continue
            for asked, answer in zip(some, answers, strict=True):
                asked.answer.set_result(answer)


def local_client(
    source: ModelSource,
    temperature: float,
    max_tokens: int,
    top_p: float,
    template: str | None,
    max_concurrency: int,
    seed: int,
) -> ChatClient:
    """Loads a model, and makes its client. Its tokens cost nothing.

    Args:
        source: The model.
        temperature: The logits are divided by it; 0 takes the likeliest token each time.
        max_tokens: Length limit of a reply, in tokens.
        top_p: Draw from the smallest set of tokens with this probability.
        template: Chat template; None takes that of the tokenizer.
        max_concurrency: Number of replies that are sampled at a time.
        seed: Seed of the replies.

    Raises:
        UserError: If the model cannot be loaded.
    """
    sampling = Sampling(max_new_tokens=max_tokens, temperature=temperature, top_p=top_p)
    name = source.pretrained or source.meta_dir or "a model with random weights"
    speaker = speaker_of(source, name, template, max_rows=max_concurrency)
    model = LocalChatModel(speaker.engine, speaker.renderer, sampling, seed=seed)
    # An error of the engine would come again.
    return ChatClient(
        model=model, name=name, max_concurrency=max_concurrency, retries=0, budget=Budget(prices=Prices(0, 0))
    )
