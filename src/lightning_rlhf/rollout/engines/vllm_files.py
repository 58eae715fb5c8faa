"""Gives vLLM servers new weights in a folder that they can read; it works on any device.

The first process of the run writes the folder, and gives it to all servers. A server that is lost and comes back gets
it from the process that misses it, which may be any: the others may not ask it for anything at that time.
"""

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import httpx
from torch import Tensor

from lightning_rlhf.distributed.collectives import gather_objects, is_first_process
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.weight_files import write_weights
from lightning_rlhf.rollout.engines.vllm_fleet import Fleet
from lightning_rlhf.saving import appearing, remove


class FilesTransfer:
    """Writes the weights once, and lets all servers load them at the same time."""

    def __init__(self, fleet: Fleet, folder: str | None) -> None:
        """Makes the folder; all processes call this together.

        Args:
            fleet: The servers.
            folder: The folder; None for a temporary one, which is removed with this object.
        """
        self._fleet = fleet
        if folder is None and is_first_process():
            folder = tempfile.mkdtemp(prefix="weights-for-vllm-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        # All processes name the folder of the first one.
        self._folder = Path(gather_objects([folder])[0] or "").absolute()
        self._version: int | None = None
        fleet.came_back = self._give_again

    def send(self, weights: Iterator[tuple[str, Tensor]], version: int) -> None:
        """Writes the weights, and waits until all servers have loaded them.

        Args:
            weights: Names as in the files of a checkpoint, and tensors.
            version: Version of the weights, which the servers put on each response.
        """
        old = self._version
        with appearing(self._path(version)) as partial:
            partial.mkdir(parents=True)
            write_weights(partial, ((name, weight.cpu()) for name, weight in weights))
        # From here on, a server that comes back gets these weights.
        self.sent(version)
        self._fleet.everywhere(self._give)
        if old not in (None, version):
            remove(self._path(old))

    def sent(self, version: int) -> None:
        """Notes which weights the servers must have from now on; the other processes call this after `send`."""
        self._version = version

    async def _give(self, client: httpx.AsyncClient, url: str) -> None:
        """Lets a server load the newest weights."""
        assert self._version is not None
        load = {"method": "take_weights_in", "kwargs": {"folder": str(self._path(self._version))}}
        await self._fleet.call(client, url, "POST", "/pause?mode=wait")
        await self._fleet.call(client, url, "POST", "/collective_rpc", json=load)
        try:
            await self._fleet.forget_cache(client, url)
        except UserError:
            # Another process has given the server the same weights meanwhile, and lets it work already.
            if not await self._has(client, url):
                raise
        named = {"new_version": str(self._version)}
        await self._fleet.call(client, url, "POST", "/update_weight_version", json=named)
        await self._fleet.call(client, url, "POST", "/resume")

    async def _give_again(self, client: httpx.AsyncClient, url: str) -> None:
        """Lets a server that was lost load the newest weights, unless it kept them or another process gave them."""
        if self._version is not None and not await self._has(client, url):
            await self._give(client, url)

    async def _has(self, client: httpx.AsyncClient, url: str) -> bool:
        """Whether a server says that it has the newest weights; the canary proves it."""
        said = await self._fleet.call(client, url, "GET", "/weight_info")
        return bool(said["weight_version"] == str(self._version))

    def _path(self, version: int) -> Path:
        return self._folder / f"weights-{version}"
