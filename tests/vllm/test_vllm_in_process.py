"""The engine with vLLM in this process, on a CPU: its log-probs are those of the trained model, push after push."""

from collections.abc import Callable

import pytest
from equal_logprobs import CPU, apart, moved, pushed
from transformers import PreTrainedModel

from lightning_rlhf.rollout.engines.vllm_in_process import VllmEngine


@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("llama", False), ("gpt2", True)])
def test_logprobs_are_those_of_the_scorer_before_and_after_ten_pushes(
    family: str, tied: bool, make_net: Callable[..., PreTrainedModel]
) -> None:
    net = make_net(family, tied=tied)
    engine = pushed(VllmEngine(net, CPU, cache_gib=0.05), net, 0)
    assert apart(engine, net) < 1e-4
    for version in range(1, 11):
        moved(net, version)
        pushed(engine, net, version)
        assert apart(engine, net) < 1e-4, f"after push {version}"
    assert apart(engine, net, temperature=0.6) < 1e-4
