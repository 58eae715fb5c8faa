"""Servers of vLLM on this machine: new weights reach them, and the run notices if they die or are wrong."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from equal_logprobs import CPU, apart, moved, pushed
from servers import Server
from transformers import PreTrainedModel

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
