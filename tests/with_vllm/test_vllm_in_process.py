"""The engine with vLLM in this process, on a CPU: its log-probs are those of the trained model, push after push."""

from collections.abc import Callable

import pytest
import torch
from equal_logprobs import CPU, apart, moved, pushed, responses
from transformers import PreTrainedModel

from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.lora import Lora
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


def test_the_adapter_is_merged_into_the_weights_that_are_sent(make_net: Callable[..., PreTrainedModel]) -> None:
    net = make_net("llama", tied=True, adapter=Lora(rank=4))
    engine = pushed(VllmEngine(net, CPU, cache_gib=0.05), net, 0)
    before = responses(engine)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.3)
    pushed(engine, net, 1)
    assert apart(engine, net) < 1e-4
    assert responses(engine) != before


def test_old_weights_are_noticed_before_they_sample(make_net: Callable[..., PreTrainedModel]) -> None:
    net = make_net("llama", tied=True)
    engine = pushed(VllmEngine(net, CPU, cache_gib=0.05), net, 0)
    assert apart(engine, net) < 1e-4
    weights = {name: weight.clone() for name, weight in net.state_dict().items()}
    moved(net, 1)
    engine.update_weights(iter(weights.items()), 1)
    with pytest.raises(UserError, match="does not have the weights of the trainer after the transfer of version 1"):
        apart(engine, net)


def test_a_response_of_old_weights_is_noticed(make_net: Callable[..., PreTrainedModel]) -> None:
    net = make_net("llama", tied=True)
    engine = pushed(VllmEngine(net, CPU, cache_gib=0.05), net, 0)
    responses(engine)
    engine._llm.update_weight_version("7")
    with pytest.raises(UserError, match="written by the weights 7, and the trainer has sent version 0"):
        responses(engine)


def test_an_engine_that_has_slept_has_the_same_weights(make_net: Callable[..., PreTrainedModel]) -> None:
    net = make_net("llama", tied=True)
    engine = pushed(VllmEngine(net, CPU, cache_gib=0.05), net, 0)
    before = responses(engine)
    # On a CPU, vLLM pauses when it is told to sleep, and keeps its memory.
    engine.device = torch.device("cuda")
    engine.release()
    engine.release()
    assert engine._core.engine_core.engine_core.is_scheduler_paused()
    engine.resume()
    engine.resume()
    assert not engine._core.engine_core.engine_core.is_scheduler_paused()
    engine.device = CPU
    assert responses(engine) == before


def test_a_prompt_for_which_there_is_no_room_is_an_error(make_net: Callable[..., PreTrainedModel]) -> None:
    net = make_net("llama", tied=True)
    engine = pushed(VllmEngine(net, CPU, cache_gib=0.05, max_length=190), net, 0)
    with pytest.raises(UserError, match="the longest prompt has 180 tokens, and max_new_tokens=24, .* at most 190"):
        apart(engine, net)


def test_threads_and_random_state_of_the_trainer_stay(make_net: Callable[..., PreTrainedModel]) -> None:
    net = make_net("llama", tied=True)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    VllmEngine(net, CPU, cache_gib=0.05)
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_num_threads(threads + 1)
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)
