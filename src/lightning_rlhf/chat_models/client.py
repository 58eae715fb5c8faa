"""The client of a chat model: any model that LangChain supports, at a provider, on a server, or in this process."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from lightning_rlhf.chat_models.budget import Budget, BudgetSpent, Prices, Usage
from lightning_rlhf.chat_models.keys import clear_keys, key_of, masked
from lightning_rlhf.chat_models.retry import BrokenReply, Stopped, described, retrying
from lightning_rlhf.console import console
from lightning_rlhf.errors import UserError, raise_problems, require
from lightning_rlhf.waiting import LONGEST, within

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, BaseMessage

Chat = Sequence["tuple[str, str] | BaseMessage"]
"""Messages: pairs of a role (system, user or assistant) and a text, or messages of LangChain."""
Item = TypeVar("Item")
Result = TypeVar("Result")

_TIMEOUT = 600.0
"""Seconds that a request may take if no time-out is set, as that of the providers' packages."""
_REASONS = ("finish_reason", "stop_reason", "done_reason")
"""Where OpenAI, Anthropic and Ollama say why a reply ended."""


class Reply(NamedTuple):
    """The reply to a chat."""

    text: str
    usage: Usage
    """The tokens of the request and of the reply; zero if the model does not report them."""
    whole: bool
    """Whether the model ended the reply itself, rather than the limit of its tokens."""


@dataclass(frozen=True, kw_only=True)
class ChatClient:
    """Asks a chat model, several requests at a time, again where that may help, and within a budget.

    Attributes:
        model: The model, of LangChain.
        name: Its name in messages.
        max_concurrency: Number of requests at a time.
        retries: How often a request is repeated that fails for a reason that may pass.
        backoff: Seconds before the first repetition; see `retrying`.
        budget: Counts what requests use, and refuses those that would exceed a limit.
        timeout: Seconds that a request may take as a whole, which a provider's own time-out does not bound if a server
            sends a byte now and then; None for any time.
        secret: The key, which a provider may repeat in its errors; no message shows it.
    """

    model: "BaseChatModel"
    name: str
    max_concurrency: int = 8
    retries: int = 5
    backoff: float = 1.0
    budget: Budget = field(default_factory=Budget)
    timeout: float | None = None
    secret: str = field(default="", repr=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False, repr=False)
    _told: set[str] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        """Checks the numbers."""
        if self.max_concurrency < 1:
            raise UserError(f"max_concurrency={self.max_concurrency}: must be positive")
        if self.retries < 0:
            raise UserError(f"retries={self.retries}: must not be negative")
        if self.timeout is not None and not 1e-3 <= self.timeout <= LONGEST:
            raise UserError(f"timeout={self.timeout}: must be from 0.001 to {LONGEST:g} seconds")

    def ask(self, chat: Chat) -> Reply:
        """Asks for the reply to a chat.

        Raises:
            UserError: If the model cannot be reached, refuses, or does not report its tokens although they are limited.
            BudgetSpent: If the request would exceed the budget.
            Stopped: If `stop` was called.
        """
        attempts = retrying(self.retries, self.backoff, self._sleep, self._tell)
        try:
            return attempts(self._attempt, list(chat))
        except (UserError, BudgetSpent, Stopped):
            raise
        # The errors of the providers have no common class.
        except Exception as error:
            asked = int(attempts.statistics.get("attempt_number", 1))
            times = f"asked {asked} times: " if asked > 1 else ""
            raise UserError(f"model={self.name}: {times}{self._described(error)}") from error

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Applies a function that asks this model to many items, `max_concurrency` at a time.

        Returns:
            The results in the order of the items.

        Raises:
            Exception: The first error of the function, after which no further request is made.
        """
        tasks = list(items)
        # Several threads may ask about an item each; an error of one must not stop the others.
        if len(tasks) == 1:
            return [work(tasks[0])]
        with ThreadPoolExecutor(self.max_concurrency) as pool:
            futures = [pool.submit(work, task) for task in tasks]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                if failed := [future for future in done if future.exception() is not None]:
                    failed[0].result()
                return [future.result() for future in futures]
            except BaseException:
                # Requests that wait for another attempt need not be awaited.
                self.stop()
                pool.shutdown(cancel_futures=True)
                self.restart()
                raise

    def stop(self) -> None:
        """Ends all pauses between attempts, and refuses further requests."""
        self._stop.set()

    def restart(self) -> None:
        """Allows requests again after `stop`."""
        self._stop.clear()

    def _attempt(self, chat: list[Any]) -> Reply:
        self._sleep(0)
        with self.budget.request():
            message = within(self.timeout, lambda: self.model.invoke(chat))
            reply = reply_of(message)
            self.budget.add(reply.usage)
        if self.budget.limited and message.usage_metadata is None:
            raise UserError(
                f"model={self.name}: does not report how many tokens it uses, so no budget can be kept; leave out "
                "max_usd and max_tokens, or set llm.settings.stream_usage=true if the server streams"
            )
        if getattr(self.model, "streaming", False) and not _ending(message):
            raise BrokenReply("the stream ended before the reply did")
        return reply

    def _tell(self, error: BaseException) -> None:
        """Says once of each kind of failure that requests are made again, since the pauses may be long."""
        if (what := self._described(error)) not in self._told:
            self._told.add(what)
            console.say(f"model={self.name}: {what}; the request is made again, up to {self.retries} times")

    def _described(self, error: BaseException) -> str:
        return masked(described(error), self.secret)

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped


def reply_of(message: "AIMessage") -> Reply:
    """Reads what a message of LangChain says."""
    used = message.usage_metadata
    usage = Usage() if used is None else Usage(used["input_tokens"], used["output_tokens"])
    return Reply(str(message.text), usage, whole=_ending(message) not in ("length", "max_tokens"))


def remote_client(
    model: str,
    *,
    temperature: float | None = None,
    max_tokens: int | None = None,
    timeout: float | None = None,
    base_url: str | None = None,
    api_key_env: str | None = None,
    settings: Mapping[str, Any] | None = None,
    input_price: float | None = None,
    output_price: float | None = None,
    retries: int = 5,
    max_concurrency: int = 8,
    group: str = "llm",
) -> ChatClient:
    """Makes the client of a model at a provider, whose LangChain package must be installed, or on a server.

    Args:
        model: `provider:name`, in the form that LangChain's `init_chat_model` accepts. A name alone is that of a model
            on a server with OpenAI's protocol, if there is a `base_url`.
        temperature: Divides the logits; None takes the provider's default, as it does below.
        max_tokens: Length limit of a reply, in tokens.
        timeout: Seconds that a request may take; None stands for ten minutes.
        base_url: Address of the server.
        api_key_env: Name of an environment variable that contains the key; None takes the provider's own variable.
        settings: Further arguments of the provider's class. A key does not belong here, because settings are written
            down in several places; "none" stands for a server that needs none.
        input_price: What a million tokens of requests cost, in US dollars.
        output_price: What a million tokens of replies cost, in US dollars.
        retries: How often a request is repeated that fails for a reason that may pass.
        max_concurrency: Number of requests at a time.
        group: Name of the group of these settings, for messages.

    Raises:
        UserError: If LangChain cannot create the model, there is no key, a key is among the settings, or only one
            price is given.
    """
    require("langchain", "langchain", f"model={model}")
    from langchain.chat_models import init_chat_model

    if (input_price is None) != (output_price is None):
        raise UserError(
            f"{group}.input_price={input_price}, {group}.output_price={output_price}: give both prices, or none"
        )
    prices = None if input_price is None or output_price is None else Prices(input_price, output_price)
    raise_problems(clear_keys(settings or {}, group))
    common = {"temperature": temperature, "max_tokens": max_tokens, "timeout": timeout, "base_url": base_url}
    given = {name: value for name, value in common.items() if value is not None} | dict(settings or {})
    key = key_of(model, given, api_key_env, group)
    if api_key_env is not None:
        given["api_key"] = key
    whole = given.get("timeout")
    if whole is not None and (isinstance(whole, bool) or not isinstance(whole, int | float)):
        raise UserError(f"{group}.settings.timeout={whole}: expected a number of seconds")
    known = model if base_url is None or ":" in model else f"openai:{model}"
    try:
        # This client repeats requests itself, for all providers in the same way.
        made = init_chat_model(known, **{**given, "max_retries": 0})
    # The errors of the providers have no common class.
    except Exception as error:
        # What follows the first paragraph is a list of all providers.
        first, _, more = str(error).partition("\n\n")
        form = "; write it as provider:name, such as openai:gpt-4o-mini" if more and ":" not in model else ""
        raise UserError(f"model={model}: {masked(first, key)}{form}") from error
    return ChatClient(
        model=made,
        name=model,
        max_concurrency=max_concurrency,
        retries=retries,
        budget=Budget(prices=prices),
        timeout=_TIMEOUT if whole is None else whole,
        secret=key,
    )


def _ending(message: "AIMessage") -> str | None:
    """Why a reply ended, in the words of the provider; None if it does not say."""
    return next(
        (str(message.response_metadata[name]) for name in _REASONS if message.response_metadata.get(name)), None
    )
