"""Scores from a server: `lightning-rlhf serve-reward`, or any other server with the same JSON protocol."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import httpx

from lightning_rlhf.errors import UserError
from lightning_rlhf.rewards.check import as_score
from lightning_rlhf.rewards.remote import Remote

_TOO_MANY_REQUESTS = 429


@dataclass(frozen=True)
class HTTPReward:
    """Requests the scores of a batch from a server. It serves as the function of a `TextReward`.

    Each request is a POST of `{"prompts": […], "responses": […]}`, with `messages`, `finished` and `columns` if they
    are known. The answer is `{"scores": […]}`, one number for each response. docs/rewards.md documents the protocol.

    Attributes:
        url: Address of the server.
        batch_size: Number of responses in one request.
        timeout: Seconds that a request may take.
        retries: How often a request is repeated if there is no connection, or the server fails (5xx) or is busy (429).
        backoff: Seconds before the first repetition; the time doubles with each further repetition.
        token_env: Name of an environment variable that contains a token, which is sent as `Authorization: Bearer …`.
        columns: Columns of the data to send in addition.
        max_concurrency: Number of requests at a time, from each process, while responses are sampled.

    Example:
        >>> TextReward(HTTPReward("http://127.0.0.1:8000/score"))
    """

    url: str
    batch_size: int = 64
    timeout: float = 60.0
    retries: int = 3
    backoff: float = 1.0
    token_env: str | None = None
    columns: Sequence[str] = ()
    max_concurrency: int = 4

    def __post_init__(self) -> None:
        """Checks the settings, without sending a request."""
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise UserError(f"url={self.url}: {error}") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise UserError(f"url={self.url}: expected an address such as http://127.0.0.1:8000/score")
        for name, number in (("batch_size", self.batch_size), ("max_concurrency", self.max_concurrency)):
            if number < 1:
                raise UserError(f"{name}={number}: must be positive")
        if self.token_env and not os.environ.get(self.token_env):
            raise UserError(f"token_env={self.token_env}: there is no such environment variable")

    @property
    def remote(self) -> Remote:
        """A call of a rollout is one request."""
        return Remote(calls=self.max_concurrency, rows=self.batch_size)

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], **columns: Sequence[object]) -> list[float]:
        """Scores responses batch by batch.

        Raises:
            UserError: If the server cannot be reached, refuses, or does not answer with one score for each response.
        """
        headers = {"Content-Type": "application/json"}
        if self.token_env:
            headers["Authorization"] = f"Bearer {os.environ[self.token_env]}"
        scores: list[float] = []
        with httpx.Client(headers=headers, timeout=self.timeout) as client:
            for body, count in self._requests(prompts, responses, columns):
                scores += self._scores(self._send(client, body), count)
        return scores

    def _requests(
        self, prompts: Sequence[str], responses: Sequence[str], columns: dict[str, Sequence[object]]
    ) -> Iterator[tuple[str, int]]:
        """Yields the body of each request, and the number of responses in it."""
        if missing := [name for name in self.columns if name not in columns]:
            raise UserError(f"columns: the data have no {', '.join(missing)}; they have {', '.join(columns)}")
        known = {name: columns[name] for name in ("messages", "finished") if name in columns}
        for start in range(0, len(responses), self.batch_size):
            rows = slice(start, start + self.batch_size)
            body: dict[str, object] = {"prompts": prompts[rows], "responses": responses[rows]}
            body |= {name: column[rows] for name, column in known.items()}
            if self.columns:
                body["columns"] = {name: columns[name][rows] for name in self.columns}
            try:
                yield json.dumps(body), len(responses[rows])
            except TypeError as error:
                raise UserError(f"columns={list(self.columns)}: cannot be sent as JSON: {error}") from error

    def _send(self, client: httpx.Client, body: str) -> httpx.Response:
        """Sends a request until it is answered, or until it was repeated `retries` times."""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.backoff * 2 ** (attempt - 1))
            try:
                response = client.post(self.url, content=body)
            except httpx.TransportError as error:
                problem = f"no answer ({error or type(error).__name__}); is the server running, and reached from here?"
                continue
            if response.status_code < 500 and response.status_code != _TOO_MANY_REQUESTS:
                return self._accepted(response)
            problem = f"{_described(response)}; look at the server's own log"
        raise UserError(f"url={self.url}: asked {self.retries + 1} times: {problem}")

    def _accepted(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        remedies = {
            401: "set token_env to the name of an environment variable with a valid token",
            404: "does the address end with the right path, such as /score?",
        }
        remedy = remedies.get(response.status_code, "docs/rewards.md says what is sent")
        raise UserError(f"url={self.url}: {_described(response)}; {remedy}")

    def _scores(self, response: httpx.Response, count: int) -> list[float]:
        try:
            found = response.json()["scores"]
        except (ValueError, TypeError, KeyError):
            found = None
        if not isinstance(found, list) or not all(map(_is_score, found)):
            raise UserError(
                f'url={self.url}: answered {response.text[:200]!r}; expected {{"scores": [finite numbers]}}'
            )
        if len(found) != count:
            raise UserError(f"url={self.url}: gave {len(found)} scores for {count} responses")
        return [float(score) for score in found]


def _is_score(value: object) -> bool:
    # In JSON, true and false are not numbers, although Python's True and False are.
    return not isinstance(value, bool) and as_score(value) is not None


def _described(response: httpx.Response) -> str:
    return f"status {response.status_code} {response.reason_phrase}: {response.text[:300]}".rstrip(": ")
