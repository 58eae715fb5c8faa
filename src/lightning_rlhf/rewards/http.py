"""Scores from a server: `lightning-rlhf serve-reward`, or any other server with the same JSON protocol."""

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import httpx

from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.rewards.check import as_score
from lightning_rlhf.rewards.remote import Remote
from lightning_rlhf.waiting import LONGEST, TimeLimit, within

_TOO_MANY_REQUESTS = 429
_LARGEST_ANSWER = 16 * 2**20
"""Bytes; the answer to a thousand responses takes a thousandth of it."""
_LONGEST_PAUSE = 60.0
_MOST_RETRIES = 1000
_MASK = "***"


@dataclass(frozen=True)
class HTTPReward:
    """Requests the scores of a batch from a server. It serves as the function of a `TextReward`.

    Each request is a POST of `{"prompts": […], "responses": […]}`, with `messages`, `finished` and `columns` if they
    are known. The answer is `{"scores": […]}`, one number for each response. docs/rewards.md documents the protocol.

    Attributes:
        url: Address of the server.
        batch_size: Number of responses in one request.
        timeout: Seconds that a request may take, from its first byte to the last one of the answer.
        retries: How often a request is repeated if there is no connection, or the server fails (5xx) or is busy (429).
        backoff: Seconds before the first repetition; the time doubles with each further repetition, up to a minute.
        deadline: Seconds after which a request is not repeated any more.
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
    deadline: float = 600.0
    token_env: str | None = None
    columns: Sequence[str] = ()
    max_concurrency: int = 4

    def __post_init__(self) -> None:
        """Checks the settings, without sending a request."""
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise UserError(f"url={self._address}: {error}") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise UserError(f"url={self._address}: expected an address such as http://127.0.0.1:8000/score")
        numbers: list[tuple[str, float, float, float]] = [
            ("batch_size", self.batch_size, 1, float("inf")),
            ("max_concurrency", self.max_concurrency, 1, float("inf")),
            ("retries", self.retries, 0, _MOST_RETRIES),
            ("timeout", self.timeout, 1e-3, LONGEST),
            ("backoff", self.backoff, 0, LONGEST),
            ("deadline", self.deadline, 1e-3, LONGEST),
        ]
        # The comparison is False for NaN too.
        raise_problems(
            f"{name}={number}: must be " + ("positive" if most == float("inf") else f"from {least:g} to {most:g}")
            for name, number, least, most in numbers
            if not least <= number <= most
        )
        token = self._token
        if self.token_env and not token:
            raise UserError(f"token_env={self.token_env}: there is no such environment variable")
        if not (token.isascii() and token.isprintable()):
            raise UserError(f"token_env={self.token_env}: the token has characters that no header can carry")

    def __repr__(self) -> str:
        """Names the server."""
        return f"HTTPReward({self._address!r})"

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
            headers["Authorization"] = f"Bearer {self._token}"
        scores: list[float] = []
        # The time-out of httpx, which begins anew with each byte, ends only what was left behind by `within`.
        with httpx.Client(headers=headers, timeout=self.timeout + 1) as client:
            for body, count in self._requests(prompts, responses, columns):
                scores += self._scores(self._send(client, body), count)
        return scores

    @property
    def _token(self) -> str:
        return os.environ.get(self.token_env, "") if self.token_env else ""

    @property
    def _address(self) -> str:
        """The address for messages, without a password that it may contain."""
        return re.sub(r"//[^/@\s]*@", f"//{_MASK}@", str(self.url))

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

    def _send(self, client: httpx.Client, body: str) -> "_Answer":
        """Sends a request until it is answered, was repeated `retries` times, or the deadline has passed."""
        start = time.monotonic()
        for asked in range(1, self.retries + 2):
            try:
                left = self.deadline - (time.monotonic() - start)
                answer = within(min(self.timeout, left), lambda: self._answer(client, body))
            except (httpx.RequestError, TimeLimit) as error:
                said = self._safe(str(error)) or type(error).__name__
                problem = f"no answer ({said}); is the server running, and reached from here?"
            else:
                if answer.status < 500 and answer.status != _TOO_MANY_REQUESTS:
                    return self._accepted(answer)
                problem = f"{answer.described}; look at the server's own log"
            if asked > self.retries:
                break
            pause = min(self.backoff * 2.0 ** (asked - 1), _LONGEST_PAUSE)
            if time.monotonic() - start + pause >= self.deadline:
                problem += f" (deadline={self.deadline:g} s leaves no time for another attempt)"
                break
            time.sleep(pause)
        raise UserError(f"url={self._address}: asked {asked} times: {problem}")

    def _answer(self, client: httpx.Client, body: str) -> "_Answer":
        """Sends a request once, and reads an answer that is not too large."""
        found, start = bytearray(), time.monotonic()
        with client.stream("POST", self.url, content=body) as response:
            for part in response.iter_bytes():
                found += part
                if len(found) > _LARGEST_ANSWER:
                    raise UserError(
                        f"url={self._address}: the answer is larger than {_LARGEST_ANSWER >> 20} MiB; expected "
                        '{"scores": [finite numbers]}'
                    )
                # Nobody waits for the answer any more.
                if time.monotonic() - start > self.timeout:
                    raise TimeLimit("timed out")
        text = self._safe(found.decode(errors="replace"))
        return _Answer(response.status_code, self._safe(response.reason_phrase), text)

    def _safe(self, text: str) -> str:
        """What a server says, without the token, which it may repeat."""
        return text.replace(self._token, _MASK) if self._token else text

    def _accepted(self, answer: "_Answer") -> "_Answer":
        if 200 <= answer.status < 300:
            return answer
        remedies = {
            401: "set token_env to the name of an environment variable with a valid token",
            404: "does the address end with the right path, such as /score?",
        }
        remedy = remedies.get(answer.status, "docs/rewards.md says what is sent")
        raise UserError(f"url={self._address}: {answer.described}; {remedy}")

    def _scores(self, answer: "_Answer", count: int) -> list[float]:
        try:
            found = json.loads(answer.text)["scores"]
        # Python refuses deep nesting, and numbers of thousands of digits.
        except (ValueError, TypeError, KeyError, RecursionError):
            found = None
        if not isinstance(found, list) or not all(map(_is_score, found)):
            raise UserError(
                f'url={self._address}: answered {answer.text[:200]!r}; expected {{"scores": [finite numbers]}}'
            )
        if len(found) != count:
            raise UserError(f"url={self._address}: gave {len(found)} scores for {count} responses")
        return [float(score) for score in found]


class _Answer(NamedTuple):
    """The answer of a server, which has no secrets."""

    status: int
    reason: str
    text: str

    @property
    def described(self) -> str:
        """The status, and the beginning of the text."""
        return f"status {self.status} {self.reason}: {self.text[:300]}".rstrip(": ")


def _is_score(value: object) -> bool:
    # In JSON, true and false are not numbers, although Python's True and False are.
    return not isinstance(value, bool) and as_score(value) is not None
