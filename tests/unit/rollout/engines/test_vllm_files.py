"""Weights in files: who gives them to a server, and when, with a small HTTP server that keeps its version."""

from pathlib import Path
from typing import Any

import pytest
import torch
from answering import Answering, serving

from lightning_rlhf.errors import UserError
from lightning_rlhf.rollout.engines.vllm_files import FilesTransfer
from lightning_rlhf.rollout.engines.vllm_fleet import Fleet


class Loading:
    """What a vLLM server does with weights: it loads them, and forgets its cache unless it is at work."""

    def __init__(self) -> None:
        self.version, self.folders, self.at_work = "default", list[str](), False

    def __call__(self, path: str, body: Any) -> tuple[int, Any]:
        if path == "/weight_info":
            return 200, {"weight_version": self.version}
        if path == "/collective_rpc":
            assert body["method"] == "take_weights_in"
            self.folders.append(body["kwargs"]["folder"])
            assert (Path(self.folders[-1]) / "model.safetensors").exists()
        if path == "/update_weight_version":
            self.version = body["new_version"]
        return 200, {"success": not self.at_work}


def transfer_to(server: Answering, folder: Path) -> tuple[Fleet, FilesTransfer]:
    fleet = Fleet([server.url], max_connections=2, timeout=20.0, on_lost="wait", wait_seconds=20.0)
    return fleet, FilesTransfer(fleet, str(folder))


def send(transfer: FilesTransfer, version: int) -> None:
    transfer.send(iter({"weight": torch.ones(2)}.items()), version)


def come_back(fleet: Fleet) -> None:
    """Does what a process does when a server that it has missed answers again."""
    assert fleet.came_back is not None
    fleet.everywhere(fleet.came_back)


def test_a_server_loads_the_newest_weights_and_says_so_and_the_older_files_are_removed(tmp_path: Path) -> None:
    loading = Loading()
    with serving(loading) as (server,):
        _, transfer = transfer_to(server, tmp_path)
        send(transfer, 0)
        send(transfer, 4)
    assert loading.version == "4"
    assert loading.folders == [str(tmp_path / "weights-0"), str(tmp_path / "weights-4")]
    assert [path.name for path in tmp_path.iterdir()] == ["weights-4"]
    paths = [path for path, _ in server.seen]
    assert paths[:5] == [
        "/pause?mode=wait",
        "/collective_rpc",
        "/reset_prefix_cache",
        "/update_weight_version",
        "/resume",
    ]


def test_a_server_that_was_restarted_gets_the_weights_from_a_process_that_has_not_sent_them(tmp_path: Path) -> None:
    loading = Loading()
    with serving(loading) as (server,):
        _, first = transfer_to(server, tmp_path)
        other_fleet, other = transfer_to(server, tmp_path)
        come_back(other_fleet)
        assert loading.folders == [], "there are no weights yet"
        send(first, 4)
        other.sent(4)
        loading.version = "default"
        come_back(other_fleet)
    assert loading.version == "4"
    assert loading.folders == [str(tmp_path / "weights-4")] * 2


def test_a_server_that_has_the_weights_already_does_not_get_them_again(tmp_path: Path) -> None:
    loading = Loading()
    with serving(loading) as (server,):
        fleet, transfer = transfer_to(server, tmp_path)
        send(transfer, 4)
        # It works on the requests of another process, so it could not forget its cache.
        loading.at_work = True
        come_back(fleet)
    assert len(loading.folders) == 1


def test_a_server_that_another_process_gives_the_same_weights_meanwhile_may_be_at_work(tmp_path: Path) -> None:
    class Overtaken(Loading):
        overtaken_with = "4"

        def __call__(self, path: str, body: Any) -> tuple[int, Any]:
            if path == "/reset_prefix_cache":
                self.version, self.at_work = self.overtaken_with, True
            return super().__call__(path, body)

    loading = Overtaken()
    with serving(loading) as (server,):
        _, transfer = transfer_to(server, tmp_path)
        send(transfer, 4)
        assert loading.version == "4"
        # The other process belongs to another run.
        loading.overtaken_with = "7"
        with pytest.raises(UserError, match="keeps its cache: give it to one run"):
            send(transfer, 8)
