"""Draws responses with vLLM servers, on other devices or hosts than the trainer.

docs/vllm.md shows how to start them. The first process of the run sends the weights to all servers, and each process
asks all servers for its responses.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import httpx
import torch
from torch import Tensor, nn

from lightning_rlhf.distributed.collectives import is_first_process
from lightning_rlhf.errors import raise_problems
from lightning_rlhf.models.precision import exported_dtype
from lightning_rlhf.models.source import DTYPES
from lightning_rlhf.rollout.canary import CANARY, canary, check_canary, differs, differs_from, unproven
from lightning_rlhf.rollout.engines.engine import Completion, Decode, Request, Token, generate_by_iterating
from lightning_rlhf.rollout.engines.stops import Stops
from lightning_rlhf.rollout.engines.vllm_agreement import agreed, together
from lightning_rlhf.rollout.engines.vllm_files import FilesTransfer
from lightning_rlhf.rollout.engines.vllm_fleet import Fleet
from lightning_rlhf.rollout.engines.vllm_nccl import NcclTransfer
from lightning_rlhf.rollout.engines.vllm_sampling import check_requests, completion, sampling_params, versions_of
from lightning_rlhf.rollout.engines.vllm_version import check_version
from lightning_rlhf.rollout.engines.vllm_weights import hf_net, sent_weights
from lightning_rlhf.rollout.sampling import Sampling


class VllmServerEngine:
    """Samples with vLLM servers; a `rollout.engines.engine.RolloutEngine`, which describes the methods."""

    shares_weights = False
    generate = generate_by_iterating

    def __init__(
        self,
        net: nn.Module,
        device: torch.device,
        *,
        urls: Sequence[str],
        transfer: Literal["files", "nccl"] = "files",
        weights_dir: str | None = None,
        master_address: str = "127.0.0.1",
        dtype: str | None = None,
        max_connections: int = 64,
        timeout: float = 600.0,
        on_lost: Literal["stop", "wait"] = "stop",
        wait_seconds: float = 600.0,
    ) -> None:
        """Connects to the servers.

        Args:
            net: The model that is trained.
            device: The device of the process.
            urls: Addresses of the servers, such as http://127.0.0.1:8000.
            transfer: How weights reach the servers: `files` in a folder that they can read, or `nccl` between GPUs.
            weights_dir: The folder for `files`; None for a temporary folder, which servers on this machine can read.
            master_address: The address at which the servers reach the first process of the run, for `nccl`.
            dtype: The dtype in which the servers compute; None for that in which the model was loaded.
            max_connections: Number of requests that each process sends to a server at a time.
            timeout: Number of seconds in which a server must answer a request.
            on_lost: Whether the run stops if a server does not answer, or waits for it.
            wait_seconds: The longest time to wait for a server, in seconds.

        Raises:
            UserError: If a value is invalid, or a server does not answer or has an untested version of vLLM.
        """
        raise_problems(
            f"rollout.engine.{name}={value}: must {rule}"
            for name, value, holds, rule in [
                ("urls", urls, len(urls) > 0 and len(set(urls)) == len(urls), "name at least one server, each once"),
                ("transfer", transfer, transfer in ("files", "nccl"), "be files or nccl"),
                ("dtype", dtype, dtype is None or dtype in DTYPES, f"be one of {', '.join(DTYPES)}, or null"),
                ("max_connections", max_connections, max_connections > 0, "be positive"),
                ("timeout", timeout, timeout > 0, "be positive"),
                ("on_lost", on_lost, on_lost in ("stop", "wait"), "be stop or wait"),
                ("on_lost", on_lost, on_lost != "wait" or transfer == "files", "be stop with transfer=nccl, because a "
                 "server that comes back reads its weights from files"),
                ("wait_seconds", wait_seconds, wait_seconds > 0, "be positive"),
            ]
            if not holds
        )  # fmt: skip
        self.net, self.device = net, device
        self.dtype = exported_dtype(hf_net(net)) if dtype is None else DTYPES[dtype]
        self.weights_version: int | None = None
        self._proof: Completion | None = None
        self._fleet = Fleet(
            urls, max_connections=max_connections, timeout=timeout, on_lost=on_lost, wait_seconds=wait_seconds
        )
        self._transfer = (
            FilesTransfer(self._fleet, weights_dir)
            if transfer == "files"
            else NcclTransfer(self._fleet, master_address, device)
        )
        self._fleet.prove = self._prove_again
        self.max_length: int = min(together(lambda: self._fleet.everywhere(self._greet)))
        self._canary = canary(hf_net(net).config.get_text_config().vocab_size, self.max_length)

    def iterate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        stop_ids: tuple[int, ...],
        decode: Decode | None = None,
    ) -> Iterator[Completion]:
        """Yields each response when it has ended; see `RolloutEngine.iterate`."""
        stops = Stops(sampling, stop_ids, decode)
        self._prove()
        yield from agreed(map(stops.cut, self._finished(requests, sampling, stop_ids)))

    def stream(
        self, request: Request, sampling: Sampling, *, stop_ids: tuple[int, ...], decode: Decode | None = None
    ) -> Iterator[Token]:
        """Yields the tokens of one response, which the servers give as a whole; see `RolloutEngine.stream`."""
        (whole,) = self.generate([request], sampling, stop_ids=stop_ids, decode=decode)
        last = len(whole.ids) - 1
        for place, (token, logprob) in enumerate(zip(whole.ids, whole.logprobs, strict=True)):
            yield Token(token, logprob, whole.finish_reason if place == last else None)

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Sends the weights to all servers, and makes them forget what they have cached with the old ones."""
        stream = iter(weights)

        def send() -> None:
            try:
                if is_first_process():
                    self._transfer.send(sent_weights(self.net, stream), version)
            finally:
                # Each tensor may be put together by all processes, so all of them read to the end.
                for _ in stream:
                    pass

        self._proof = None
        together(send)
        self._transfer.sent(version)
        self.weights_version = version

    def release(self) -> None:
        """Does nothing, because the servers have devices of their own."""

    def resume(self) -> None:
        """Does nothing; see `release`."""

    async def _greet(self, client: httpx.AsyncClient, url: str) -> int:
        """Checks the version of a server, and returns the largest number of tokens that it reads."""
        found = await self._fleet.call(client, url, "GET", "/version")
        check_version(str(found["version"]), f"the vLLM server {url}")
        models = await self._fleet.call(client, url, "GET", "/v1/models")
        return int(models["data"][0]["max_model_len"])

    def _prove(self) -> None:
        """Checks new weights on each server with the canary, before anything is sampled with them."""
        if self._proof is not None:
            return
        version = self.weights_version
        if version is None:
            raise RuntimeError("the servers have no weights yet")
        answers = together(lambda: self._fleet.everywhere(self._ask_canary))
        for url, answer in zip(self._fleet.urls, answers, strict=True):

            def problem(answer: Completion = answer) -> str:
                return differs(self.net, self.device, self._canary, answer, self.dtype)

            check_canary(problem, f"the vLLM server {url}", version)
        self._proof = answers[0]

    async def _prove_again(self, client: httpx.AsyncClient, url: str) -> None:
        """Compares a server that has come back with an answer that is proven, since the model cannot be called here."""
        if self._proof is not None:
            problem = differs_from(self._proof, await self._ask_canary(client, url), self.dtype)
            if problem:
                raise unproven(f"the vLLM server {url}", self._proof.weights_version, problem)

    async def _ask_canary(self, client: httpx.AsyncClient, url: str) -> Completion:
        assert self.weights_version is not None
        body = _body(self._canary, CANARY, ())
        answer = await self._fleet.call(client, url, "POST", "/inference/v1/generate", json=body)
        return _completion(0, answer, self.weights_version, CANARY)

    def _finished(
        self, requests: Sequence[Request], sampling: Sampling, stop_ids: tuple[int, ...]
    ) -> Iterator[Completion]:
        version = self.weights_version
        assert version is not None
        check_requests(requests, sampling, self.max_length)
        for place, answer in self._fleet.answers([_body(request, sampling, stop_ids) for request in requests]):
            yield _completion(place, answer, version, sampling)


def _body(request: Request, sampling: Sampling, stop_ids: tuple[int, ...]) -> dict[str, Any]:
    """Makes the body of a request to vLLM's route that takes and gives token ids."""
    return {"token_ids": request.prompt, "sampling_params": sampling_params(request, sampling, stop_ids)}


def _completion(place: int, answer: Any, version: int, sampling: Sampling) -> Completion:
    said = answer["choices"][0]
    logprobs = [token["logprob"] for token in said["logprobs"]["content"]]
    versions = versions_of(said["weight_versions"])
    return completion(place, said["token_ids"], logprobs, said["finish_reason"], versions, version, sampling)
