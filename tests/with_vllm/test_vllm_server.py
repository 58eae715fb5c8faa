"""Servers of vLLM on this machine: new weights reach them, and the run notices if they die or are wrong."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from equal_logprobs import CPU, apart, moved, pushed, responses
from servers import Server
from transformers import PreTrainedModel

from lightning_rlhf.errors import UserError
from lightning_rlhf.rollout.engines.vllm_fleet import LostServerError
from lightning_rlhf.rollout.engines.vllm_server import VllmServerEngine


@pytest.fixture(scope="module")
def net(make_net: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    return make_net("llama", tied=True)


@pytest.fixture(scope="module")
def servers(net: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two servers, with other weights than those of the model."""
    started = [Server(net, tmp_path_factory.mktemp("server")) for _ in range(2)]
    try:
        yield [server.wait() for server in started]
    finally:
        for server in started:
            server.kill()


def engine_of(net: PreTrainedModel, *servers: Server, **settings: Any) -> VllmServerEngine:
    return VllmServerEngine(net, CPU, urls=[server.url for server in servers], timeout=120, **settings)


def test_logprobs_are_those_of_the_scorer_before_and_after_ten_pushes(
    net: PreTrainedModel, servers: list[Server]
) -> None:
    engine = pushed(engine_of(net, *servers), net, 0)
    assert apart(engine, net) < 1e-4
    for version in range(1, 11):
        moved(net, version)
        pushed(engine, net, version)
        assert apart(engine, net) < 1e-4, f"after push {version}"
    assert apart(engine, net, temperature=0.6) < 1e-4


def test_a_server_with_other_weights_is_noticed_before_it_samples(net: PreTrainedModel, servers: list[Server]) -> None:
    engine = pushed(engine_of(net, *servers), net, 20)
    # The trainer moves on, and its transfer is lost; only the number arrives.
    moved(net, 20)
    engine._proof, engine.weights_version = None, 20
    with pytest.raises(UserError, match="does not have the weights of the trainer after the transfer of version 20"):
        apart(engine, net)
    pushed(engine, net, 21)
    # Another run sends its weights to the same server.
    httpx.post(f"{servers[1].url}/update_weight_version", json={"new_version": "3"}).raise_for_status()
    with pytest.raises(UserError, match="written by the weights 3, and the trainer has sent version 21"):
        apart(engine, net)


def test_a_run_waits_for_a_lost_server_and_gives_it_the_weights(net: PreTrainedModel, servers: list[Server]) -> None:
    engine = pushed(engine_of(net, servers[0], on_lost="wait", wait_seconds=300), net, 30)
    assert apart(engine, net) < 1e-4
    before = responses(engine)
    servers[0].kill()
    # The new process starts with the weights of the first one, which are not those of the trainer any more.
    starter = threading.Timer(3, servers[0].start)
    starter.start()
    assert responses(engine) == before
    starter.join()
    assert apart(engine, net) < 1e-4


def test_a_run_stops_with_one_message_if_a_server_is_lost(net: PreTrainedModel, servers: list[Server]) -> None:
    engine = pushed(engine_of(net, *servers), net, 40)
    assert apart(engine, net) < 1e-4
    servers[1].kill()
    with pytest.raises(LostServerError, match=f"{servers[1].url} does not answer .*resume the run"):
        apart(engine, net)
    with pytest.raises(LostServerError, match=f"{servers[1].url} does not answer"):
        pushed(engine, net, 41)
    stays_away = engine_of(net, servers[0], on_lost="wait", wait_seconds=0.5)
    stays_away._fleet.urls.append(servers[1].url)
    with pytest.raises(LostServerError, match="has not come back within 0.5 seconds"):
        pushed(stays_away, net, 42)
