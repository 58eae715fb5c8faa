"""What the engine gives to vLLM in its process, and takes back; vLLM itself is in tests/with_vllm."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from lightning_rlhf.errors import UserError
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.engines.vllm_in_process import VllmEngine

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def net(make_source: Callable[..., ModelSource], make_causal_lm: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    return make_causal_lm(make_source("llama"))


def test_a_limit_without_room_for_the_canary_is_refused_before_vllm_starts(net: PreTrainedModel) -> None:
    with pytest.raises(UserError, match=r"rollout\.engine\.max_length=16: must be above 16"):
        VllmEngine(net, CPU, max_length=16)
