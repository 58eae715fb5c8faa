"""What becomes of servers and weights if a transfer over NCCL fails; the transfer itself needs a GPU."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from answering import Answering, serving

from lightning_rlhf.errors import UserError
from lightning_rlhf.rollout.engines import vllm_nccl
from lightning_rlhf.rollout.engines.vllm_fleet import Fleet, LostServerError
from lightning_rlhf.rollout.engines.vllm_nccl import NcclTransfer


def works(path: str, body: Any) -> tuple[int, Any]:
    return 200, {"success": True, "world_size": 2}


def is_gone(path: str, body: Any) -> tuple[int, Any]:
    raise ConnectionError


@pytest.fixture
def transfer_to(monkeypatch: pytest.MonkeyPatch) -> Callable[..., NcclTransfer]:
    """Makes a transfer whose part on the GPU is a function of address, number of workers, and version."""

    def make(servers: list[Answering], send_to: Callable[[str, int, int], None]) -> NcclTransfer:
        monkeypatch.setattr(vllm_nccl, "check_installed", lambda place: None)
        fleet = Fleet(
            [server.url for server in servers], max_connections=1, timeout=1.0, on_lost="stop", wait_seconds=1.0
        )
        transfer = NcclTransfer(fleet, "127.0.0.1", torch.device("cuda"))
        monkeypatch.setattr(transfer, "_send_to", send_to)
        return transfer

    return make


def send(transfer: NcclTransfer) -> None:
    transfer.send(iter({"weight": torch.ones(2)}.items()), 3)


def paths(server: Answering) -> list[str]:
    return [path for path, _ in server.seen]


def test_servers_are_paused_and_work_again_with_an_empty_cache(transfer_to: Callable[..., NcclTransfer]) -> None:
    sent: list[Any] = []

    def send_to(*arguments: Any) -> None:
        sent.append((*arguments, list(transfer._source.weights)))

    with serving(works, works) as servers:
        transfer = transfer_to(servers, send_to)
        send(transfer)
        assert sent == [(server.url, 2, 3, ["weight"]) for server in servers]
        expected = ["/pause?mode=wait", "/get_world_size", "/reset_prefix_cache", "/resume"]
        assert [paths(server) for server in servers] == [expected, expected]
    assert transfer._source.weights == {}


def test_a_transfer_that_fails_names_the_cause_and_leaves_servers_at_work_and_no_weights(
    transfer_to: Callable[..., NcclTransfer],
) -> None:
    broken = RuntimeError("unhandled system error")

    def send_to(*_: Any) -> None:
        raise broken

    with serving(works, works) as servers:
        transfer = transfer_to(servers, send_to)
        with pytest.raises(UserError, match=r"has not taken the weights \(RuntimeError: unhandled system") as caught:
            send(transfer)
        assert [paths(server)[-1] for server in servers] == ["/resume", "/resume"]
    assert caught.value.__cause__ is broken
    assert not isinstance(caught.value, LostServerError)
    assert transfer._source.weights == {}


def test_a_transfer_that_does_not_end_loses_the_server(transfer_to: Callable[..., NcclTransfer]) -> None:
    ended = threading.Event()

    def send_to(*_: Any) -> None:
        ended.wait(20)

    with serving(works) as servers:
        with pytest.raises(LostServerError, match=r"no end after rollout\.engine\.timeout=1 seconds"):
            send(transfer_to(servers, send_to))
        ended.set()
        assert paths(servers[0])[-1] == "/resume"


def test_a_server_that_is_gone_is_named_and_the_others_work_again(transfer_to: Callable[..., NcclTransfer]) -> None:
    with serving(works, is_gone) as servers:
        with pytest.raises(LostServerError, match=f"{servers[1].url} does not answer /pause"):
            send(transfer_to(servers, lambda *_: None))
        assert paths(servers[0])[-1] == "/resume"
