"""What the engine gives to vLLM in its process, and takes back; vLLM itself is in tests/with_vllm."""

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import PreTrainedModel

from lightning_rlhf.errors import UserError
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.engines import vllm_in_process
from lightning_rlhf.rollout.engines.engine import Request
from lightning_rlhf.rollout.engines.vllm_in_process import VllmEngine
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def net(make_source: Callable[..., ModelSource], make_causal_lm: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    return make_causal_lm(make_source("llama"))


def test_a_limit_without_room_for_the_canary_is_refused_before_vllm_starts(net: PreTrainedModel) -> None:
    with pytest.raises(UserError, match=r"rollout\.engine\.max_length=16: must be above 16"):
        VllmEngine(net, CPU, max_length=16)


class Core:
    """Holds requests as vLLM does, and refuses those whose prompt contains 13."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.vllm_config = SimpleNamespace(model_config=SimpleNamespace(max_model_len=64))
        self.engine_core = SimpleNamespace(shutdown=lambda: None)

    def add_request(self, name: str, prompt: dict[str, list[int]], params: object) -> None:
        if 13 in prompt["prompt_token_ids"]:
            raise ValueError("13 is refused")
        self.held.append(name)

    def abort_request(self, names: list[str]) -> None:
        for name in names:
            self.held.remove(name)


def test_a_request_that_vllm_refuses_leaves_none_of_the_others_behind(
    net: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, vllm = Core(), ModuleType("vllm")
    llm = SimpleNamespace(llm_engine=core)
    vllm.__dict__["SamplingParams"] = dict
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setattr(vllm_in_process, "check_installed", lambda place: None)
    monkeypatch.setattr(vllm_in_process, "start", lambda *_, **__: llm)
    engine = VllmEngine(net, CPU)
    engine.weights_version, engine._is_proven = 0, True
    requests = [Request([token], RandomKey(0, (SAMPLING, 0), token)) for token in (11, 12, 13)]
    with pytest.raises(ValueError, match="13 is refused"):
        engine.generate(requests, Sampling(max_new_tokens=2), stop_ids=())
    assert core.held == []
