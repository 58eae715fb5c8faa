"""Sends weights from the GPU of the trainer to the GPUs of vLLM servers, with vLLM's own weight transfer (NCCL).

NCCL has no time-out: if a server dies in the middle of a transfer, the call never returns. The transfer therefore runs
in a thread that the run does not wait for beyond a deadline.

This file is written from vLLM's documented contract, and is not tested on a GPU.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import httpx
import torch
from torch import Tensor

from lightning_rlhf.errors import UserError
from lightning_rlhf.rollout.engines.vllm_fleet import Fleet, LostServerError
from lightning_rlhf.rollout.engines.vllm_version import check_installed


class _Described(NamedTuple):
    """What vLLM wants to know about a weight before it arrives."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass
class _Source:
    """The weights of a transfer, as vLLM's `WeightSource` offers them: first described, then one by one."""

    device: torch.device
    weights: dict[str, Tensor] = field(default_factory=dict)

    def metadata(self) -> list[_Described]:
        return [_Described(name, weight.dtype, tuple(weight.shape)) for name, weight in self.weights.items()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, weight.to(self.device)) for name, weight in self.weights.items())


class NcclTransfer:
    """Holds one NCCL group with each server, in which the trainer is the only sender."""

    def __init__(self, fleet: Fleet, master_address: str, device: torch.device) -> None:
        """Checks that this process can send; the groups are made for the first transfer.

        Args:
            fleet: The servers, which were started with `--weight-transfer-config '{"backend": "nccl"}'`.
            master_address: The address at which the servers reach this process.
            device: The GPU of this process.

        Raises:
            UserError: If the device is no GPU, or vLLM is not installed here.
        """
        if device.type != "cuda":
            raise UserError(
                f"rollout.engine.transfer=nccl sends weights between GPUs, and the trainer computes on {device.type}: "
                "set rollout.engine.transfer=files"
            )
        check_installed("rollout.engine.transfer=nccl")
        self._fleet, self._address, self._device = fleet, master_address, device
        self._source = _Source(device)
        self._senders: dict[str, Any] = {}

    def send(self, weights: Iterator[tuple[str, Tensor]], version: int) -> None:
        """Sends the weights to one server after the other.

        Args:
            weights: Names as in the files of a checkpoint, and tensors. They are held on the CPU meanwhile, because
                vLLM must know all names and shapes before the first weight arrives.
            version: Version of the weights, which the servers put on each response.

        Raises:
            LostServerError: If a transfer takes longer than the time-out of a request.
            UserError: If it fails for another reason. Servers that still answer work on, and the weights are freed.
        """

        async def paused(client: httpx.AsyncClient, url: str) -> int:
            await self._fleet.call(client, url, "POST", "/pause?mode=wait")
            return int((await self._fleet.call(client, url, "GET", "/get_world_size"))["world_size"])

        async def resumed(client: httpx.AsyncClient, url: str) -> None:
            await self._fleet.forget_cache(client, url)
            await self._fleet.call(client, url, "POST", "/resume")

        async def left(client: httpx.AsyncClient, url: str) -> None:
            # One that does not answer has been told of already.
            with suppress(UserError):
                await self._fleet.call(client, url, "POST", "/resume")

        try:
            self._source.weights = {name: weight.cpu() for name, weight in weights}
            for url, workers in zip(self._fleet.urls, self._fleet.everywhere(paused), strict=True):
                self._within_time(partial(self._send_to, url, workers, version), url)
            self._fleet.everywhere(resumed)
        except BaseException:
            self._fleet.everywhere(left)
            raise
        finally:
            self._source.weights = {}

    def sent(self, version: int) -> None:
        """Does nothing: a server that was lost cannot come back, so no process needs the version."""

    def _send_to(self, url: str, workers: int, version: int) -> None:
        """Sends the weights to one server, with vLLM's protocol: start, update, and finish with a version."""
        from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

        torch.cuda.set_device(self._device)
        if url not in self._senders:
            client = HTTPVLLMWeightSyncClient(url, timeout=self._fleet.timeout)
            with socket.socket() as free:
                free.bind(("", 0))
                port = free.getsockname()[1]
            info = NCCLTrainerInitInfo(self._address, port, 1 + workers, rank=0)
            self._senders[url] = NCCLTrainerWeightTransferEngine.trainer_init(info, client=client, source=self._source)
        client = self._senders[url].client
        # vLLM's sender finishes without a version unless it is told one.
        client.finish_weight_update = lambda: HTTPVLLMWeightSyncClient.finish_weight_update(client, str(version))
        self._senders[url].send_weights()

    def _within_time(self, act: Callable[[], None], url: str) -> None:
        failures: list[Exception] = []

        def run() -> None:
            try:
                act()
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=run, name="weights-to-vllm", daemon=True)
        thread.start()
        thread.join(self._fleet.timeout)
        message = (
            f"the vLLM server {url} has not taken the weights ({{}}). The last checkpoint has all updates up to this "
            "iteration: start the server again, and resume the run (train resume=FOLDER)"
        )
        if failures:
            raise UserError(message.format(f"{type(failures[0]).__name__}: {failures[0]}")) from failures[0]
        if thread.is_alive():
            raise LostServerError(
                message.format(f"no end after rollout.engine.timeout={self._fleet.timeout:g} seconds")
            )
