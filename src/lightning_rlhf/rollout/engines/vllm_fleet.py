"""Several vLLM servers as one: calls with time-outs, and requests that are dealt to whichever server is free.

Connections are bounded: each server has a number of tasks, each of which takes the next request from one common queue.
A request that a lost server did not answer goes back to the queue; its answer does not depend on the server, because
the request contains its seed.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import httpx

from lightning_rlhf.errors import UserError

# The time between two questions to a server that does not answer, in seconds.
_PAUSE = 2.0


class LostServerError(UserError):
    """A vLLM server does not answer any more."""


class Fleet:
    """The servers of a run."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        max_connections: int,
        timeout: float,
        on_lost: Literal["stop", "wait"],
        wait_seconds: float,
    ) -> None:
        """Stores the addresses.

        Args:
            urls: Addresses of the servers, such as http://127.0.0.1:8000.
            max_connections: Number of requests that a server works on at a time.
            timeout: Number of seconds in which a server must answer a request.
            on_lost: Whether to stop if a server does not answer, or to wait for it.
            wait_seconds: The longest time to wait for a server, in seconds.
        """
        self.urls = [url.rstrip("/") for url in urls]
        self.max_connections, self.timeout = max_connections, timeout
        self.on_lost, self.wait_seconds = on_lost, wait_seconds
        self.came_back: Callable[[httpx.AsyncClient, str], Awaitable[None]] | None = None
        """Gives a server that was lost, and is back, the weights that it should have."""
        self.prove: Callable[[httpx.AsyncClient, str], Awaitable[None]] | None = None
        """Checks that it has them."""

    async def call(self, client: httpx.AsyncClient, url: str, method: str, path: str, **arguments: Any) -> Any:
        """Sends one request to a server, and returns the JSON of its answer, or None if that is empty.

        Raises:
            LostServerError: If the server is gone.
            UserError: If it answers with an error, or is there but takes too long.
        """
        try:
            response = await client.request(method, f"{url}{path}", timeout=self.timeout, **arguments)
        except httpx.TransportError as error:
            if isinstance(error, httpx.TimeoutException) and await self._is_healthy(client, url):
                raise UserError(
                    f"rollout.engine.timeout={self.timeout:g}: the vLLM server {url} says that it is healthy, but has "
                    f"not answered {path} in so many seconds: raise it if answers are that slow, or lower "
                    "rollout.engine.max_connections"
                ) from error
            raise LostServerError(self._lost(url, path, f"{type(error).__name__}: {error}")) from error
        if response.status_code >= 500 and not await self._is_healthy(client, url):
            raise LostServerError(self._lost(url, path, f"status {response.status_code}"))
        if response.is_error:
            raise UserError(
                f"the vLLM server {url} answers {path} with status {response.status_code}: {response.text[:300]}. Its "
                "log says why; docs/vllm.md shows how to start it"
            )
        return response.json() if response.content else None

    async def forget_cache(self, client: httpx.AsyncClient, url: str) -> None:
        """Makes a server forget the keys and values of prompts.

        Raises:
            UserError: If it keeps them, because it works on requests.
        """
        if not (await self.call(client, url, "POST", "/reset_prefix_cache"))["success"]:
            raise UserError(
                f"the vLLM server {url} works on requests of others, and keeps its cache: give it to one run"
            )

    def everywhere(self, act: Callable[[httpx.AsyncClient, str], Awaitable[Any]]) -> list[Any]:
        """Does the same on all servers at a time, and waits for lost servers if that is configured.

        Args:
            act: Gets the client and the address of a server.

        Returns:
            What each server gave, in the order of their addresses.
        """

        async def on(client: httpx.AsyncClient, url: str) -> Any:
            deadline = None
            while True:
                try:
                    return await act(client, url)
                except LostServerError as lost:
                    # A server that is lost again before it has answered gets no more time.
                    deadline = deadline or self._deadline()
                    await self._await_return(client, url, lost, deadline)

        async def on_all() -> list[Any]:
            async with self._client() as client:
                return await asyncio.gather(*(on(client, url) for url in self.urls))

        return asyncio.run(on_all())

    def answers(self, bodies: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Any]]:
        """Yields the answer to each request for completion as soon as it arrives, with the index of the request.

        Raises:
            LostServerError: If a server is lost, and stays away.
        """
        found: queue.SimpleQueue[tuple[int, Any] | BaseException] = queue.SimpleQueue()
        stop = threading.Event()

        def run() -> None:
            try:
                asyncio.run(self._drive(bodies, found, stop))
            except BaseException as error:
                found.put(error)

        thread = threading.Thread(target=run, name="vllm-requests", daemon=True)
        thread.start()
        try:
            for _ in bodies:
                answer = found.get()
                if isinstance(answer, BaseException):
                    raise answer
                yield answer
        except BaseException:
            # A caller that stops early leaves no request behind.
            stop.set()
            raise
        finally:
            thread.join()

    async def _drive(
        self, bodies: Sequence[Mapping[str, Any]], found: queue.SimpleQueue[Any], stop: threading.Event
    ) -> None:
        """Puts all answers into a queue, or stops early if told to."""
        # The first requests come first, even if a lost server has left them.
        left = asyncio.PriorityQueue[int]()
        for place in range(len(bodies)):
            left.put_nowait(place)
        # How often each server has come back: of all tasks that miss it, one waits for it and gives it the weights.
        returns = dict.fromkeys(self.urls, 0)
        # Until when a server has to answer that was lost and has not answered since.
        deadlines: dict[str, float] = {}
        locks = {url: asyncio.Lock() for url in self.urls}

        async def serve(client: httpx.AsyncClient, url: str) -> None:
            while True:
                # Another server may be lost, and its requests come back: no task ends by itself.
                place, known = await left.get(), returns[url]
                try:
                    answer = await self.call(client, url, "POST", "/inference/v1/generate", json=bodies[place])
                except LostServerError as lost:
                    left.put_nowait(place)
                    async with locks[url]:
                        if returns[url] == known:
                            await self._await_return(client, url, lost, deadlines.setdefault(url, self._deadline()))
                            returns[url] += 1
                else:
                    deadlines.pop(url, None)
                    found.put((place, answer))
                left.task_done()

        async def watch() -> None:
            """Ends when the caller wants no more answers, and with it the requests that are under way."""
            while not stop.is_set():
                await asyncio.sleep(0.05)

        async with self._client() as client:
            count = min(self.max_connections, len(bodies))
            # In turn, so that a few requests do not all go to the first server.
            tasks = [asyncio.create_task(serve(client, url)) for _ in range(count) for url in self.urls]
            # `join` ends when all requests are answered, and all servers that were lost are back.
            tasks += [asyncio.create_task(left.join()), asyncio.create_task(watch())]
            try:
                # The first task that ends is one of these two, or has an error.
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _deadline(self) -> float:
        return time.monotonic() + self.wait_seconds

    async def _await_return(self, client: httpx.AsyncClient, url: str, lost: LostServerError, deadline: float) -> None:
        """Waits until a lost server answers again, and gives it the weights.

        Raises:
            LostServerError: If the run is not to wait, or the server stays away.
        """
        if self.on_lost == "stop":
            raise lost
        while time.monotonic() < deadline:
            # The pause comes first: a server may say that it is healthy, and lose each other request at once.
            await asyncio.sleep(_PAUSE)
            if not await self._is_healthy(client, url):
                continue
            try:
                for prepare in (self.came_back, self.prove):
                    if prepare is not None:
                        await prepare(client, url)
                return
            except LostServerError as again:
                lost = again
        raise LostServerError(f"{lost}\nit has not come back within {self.wait_seconds:g} seconds") from lost

    async def _is_healthy(self, client: httpx.AsyncClient, url: str) -> bool:
        try:
            return (await client.get(f"{url}/health", timeout=min(self.timeout, 10))).is_success
        except httpx.TransportError:
            return False

    def _client(self) -> httpx.AsyncClient:
        # The tasks bound the number of connections to each server.
        return httpx.AsyncClient(limits=httpx.Limits(max_connections=None), trust_env=False)

    def _lost(self, url: str, path: str, reason: str) -> str:
        return (
            f"the vLLM server {url} does not answer {path} ({reason}). Start the server again, and resume the run from "
            "its last checkpoint (train resume=FOLDER). With rollout.engine.on_lost=wait, a run waits for its servers"
        )
