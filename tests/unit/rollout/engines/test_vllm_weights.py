"""The weights that are sent to vLLM are those of a plain checkpoint, which computes what the trained model computes."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import PreTrainedModel

from lightning_rlhf.models.adapters.lora import Lora
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.engines.vllm_weights import hf_net, sent_weights

IDS = torch.tensor([[3, 7, 11, 60, 2]])


def sent(net: nn.Module) -> dict[str, Tensor]:
    found = list(sent_weights(net, iter(net.state_dict().items())))
    assert len(dict(found)) == len(found), "a weight is sent twice"
    return dict(found)


@torch.no_grad()
def check_same(net: nn.Module, weights: dict[str, Tensor], plain: PreTrainedModel) -> None:
    """Loads the weights into a model without adapters, and compares what both compute."""
    result = plain.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys
    assert set(result.missing_keys) <= set(plain.all_tied_weights_keys)
    assert_close(plain(IDS).logits, net(input_ids=IDS).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_have_the_names_of_a_checkpoint_and_a_tied_head_is_not_among_them(
    tied: bool, make_source: Callable[..., ModelSource], make_causal_lm: Callable[..., PreTrainedModel]
) -> None:
    source = make_source("llama", tie_word_embeddings=tied)
    net = make_causal_lm(source)
    weights = sent(net)
    assert ("lm_head.weight" in weights) is not tied
    check_same(net, weights, make_causal_lm(source, seed=1))


@pytest.mark.parametrize("shared", [False, True])
def test_the_active_adapter_is_merged(
    shared: bool, make_source: Callable[..., ModelSource], make_causal_lm: Callable[..., PreTrainedModel]
) -> None:
    source = make_source("llama")
    net = make_causal_lm(replace(source, adapter=Lora(rank=2)))
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(len(name)))
    called = Backbone(net) if shared else net
    assert hf_net(called) is net
    weights = sent(called)
    assert not [name for name in weights if "lora" in name or "base_layer" in name or name.startswith("net.")]
    check_same(called, weights, make_causal_lm(source, seed=1))


def test_what_is_sent_does_not_change_with_the_stream_or_the_model(
    make_source: Callable[..., ModelSource], make_causal_lm: Callable[..., PreTrainedModel]
) -> None:
    net = make_causal_lm(make_source("llama"))
    before = copy.deepcopy(dict(net.named_parameters()))
    weights = sent(net)
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
    assert all(torch.equal(weights[name], before[name]) for name in before.keys() & weights.keys())
    assert before.keys() & weights.keys()
