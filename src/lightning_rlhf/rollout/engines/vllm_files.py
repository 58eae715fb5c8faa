"""Gives vLLM servers new weights in a folder that they can read; it works on any device."""

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import httpx
from torch import Tensor

from lightning_rlhf.models.weight_files import write_weights
from lightning_rlhf.rollout.engines.vllm_fleet import Fleet
from lightning_rlhf.saving import appearing, remove


class FilesTransfer:
    """Writes the weights once, and lets all servers load them at the same time."""

    def __init__(self, fleet: Fleet, folder: str | None) -> None:
        """Makes the folder.

        Args:
            fleet: The servers.
            folder: The folder; None for a temporary one, which is removed with this object.
        """
        self._fleet = fleet
        self._folder = Path(tempfile.mkdtemp(prefix="weights-for-vllm-") if folder is None else folder).absolute()
        if folder is None:
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._version: int | None = None
        fleet.came_back = self._give

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
        self._version = version
        self._fleet.everywhere(self._give)
        if old not in (None, version):
            remove(self._path(old))

    async def _give(self, client: httpx.AsyncClient, url: str) -> None:
        """Lets a server load the newest weights, if there are any."""
        if self._version is None:
            return
        load = {"method": "take_weights_in", "kwargs": {"folder": str(self._path(self._version))}}
        await self._fleet.call(client, url, "POST", "/pause?mode=wait")
        await self._fleet.call(client, url, "POST", "/collective_rpc", json=load)
        await self._fleet.forget_cache(client, url)
        named = {"new_version": str(self._version)}
        await self._fleet.call(client, url, "POST", "/update_weight_version", json=named)
        await self._fleet.call(client, url, "POST", "/resume")

    def _path(self, version: int) -> Path:
        return self._folder / f"weights-{version}"
