"""Adapters in a model: where they are, which one is active, and what is trained."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.active import activated
from lightning_rlhf.models.adapters.lora import Lora, inject
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.scalar import load_scalar_model
from lightning_rlhf.models.source import ModelSource

MakeSource = Callable[..., ModelSource]
IDS = torch.arange(2, 12)[None]
# All linear layers of a block, as in the papers and the code of the families.
TARGETS = {
    "gpt2": ["c_attn", "c_fc", "c_proj"],
    "llama": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
    "opt": ["fc1", "fc2", "k_proj", "out_proj", "q_proj", "v_proj"],
    "bloom": ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"],
    "gpt_neox": ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"],
}


def drawn(net: Any) -> Any:
    """Returns the same model with adapters that are not 0."""
    torch.manual_seed(3)
    for name, weight in net.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return net.eval()


def logits(net: Any) -> Tensor:
    return net(IDS).logits


@pytest.mark.parametrize("family", TARGETS)
@pytest.mark.parametrize("load", [load_causal_lm, lambda source: load_scalar_model(source, "normal").net])
def test_all_linear_layers_of_the_blocks_get_one_and_no_other(
    family: str, load: Callable, make_source: MakeSource
) -> None:
    net = load(replace(make_source(family), adapter=Lora(rank=2)))
    adapted = {name.split(".lora_A")[0] for name, _ in net.named_parameters() if "lora_A" in name}
    assert sorted({name.split(".")[-1] for name in adapted}) == TARGETS[family]
    # In GPT-2, unlike BLOOM, the output of the attention and the second layer of the MLP have the same name.
    layers_of_block = {"gpt2": 4, "llama": 7, "opt": 6, "bloom": 4, "gpt_neox": 4}[family]
    assert len(adapted) == layers_of_block * net.config.num_hidden_layers
    assert not any("score" in name or "lm_head" in name or "embed" in name for name in adapted)


@pytest.mark.parametrize("family", TARGETS)
def test_a_new_adapter_changes_nothing_and_is_all_that_is_trained(family: str, make_source: MakeSource) -> None:
    source = make_source(family)
    plain, net = load_causal_lm(source).eval(), load_causal_lm(replace(source, adapter=Lora())).eval()
    assert torch.equal(logits(net), logits(plain))
    trained = {name for name, weight in net.named_parameters() if weight.requires_grad}
    assert trained == {name for name, _ in net.named_parameters() if ".lora_A." in name or ".lora_B." in name}
    assert type(net) is type(plain)


def test_the_head_and_the_bias_of_a_scalar_model_are_trained_too(make_source: MakeSource) -> None:
    model = load_scalar_model(replace(make_source("llama"), adapter=Lora()), "normal")
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name for name in trained if "lora" not in name} == {"bias", "net.score.weight"}


@pytest.mark.parametrize(
    ("lora", "scale"),
    # alpha / rank, alpha / sqrt(rank)
    [(Lora(rank=4, alpha=6), 1.5), (Lora(rank=4, alpha=6, rslora=True), 3.0)],
)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_layer_adds_what_the_formula_says(lora: Lora, scale: float, family: str, make_source: MakeSource) -> None:
    net = drawn(load_causal_lm(replace(make_source(family), adapter=lora)))
    layer = next(module for module in net.modules() if hasattr(module, "lora_A"))
    x = torch.randn(3, layer.in_features)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert a.shape == (4, layer.in_features)
    assert_close(layer(x), layer.base_layer(x) + scale * x @ a.T @ b.T)


def test_a_layer_of_dora_has_columns_of_the_trained_length(make_source: MakeSource) -> None:
    net = drawn(load_causal_lm(replace(make_source("llama"), adapter=Lora(dora=True))))
    layer = next(module for module in net.modules() if hasattr(module, "lora_A"))
    magnitude = layer.lora_magnitude_vector["default"].weight
    assert magnitude.requires_grad
    with torch.no_grad():
        magnitude.mul_(1.7)
        changed = layer.base_layer.weight + layer.get_delta_weight("default")
        weight = magnitude[:, None] * changed / changed.norm(dim=1, keepdim=True)
        x = torch.randn(3, layer.in_features)
        assert_close(layer(x), x @ weight.T, atol=1e-5, rtol=1e-5)


def test_one_seed_gives_one_adapter_and_leaves_the_global_generator_alone(make_source: MakeSource) -> None:
    source = replace(make_source("llama"), adapter=Lora())
    torch.manual_seed(0)
    nets = [load_causal_lm(source), load_causal_lm(source), load_causal_lm(replace(source, seed=source.seed + 1))]
    number = torch.rand(1)
    weights = [next(w for name, w in net.named_parameters() if "lora_A" in name) for net in nets]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    torch.manual_seed(0)
    assert torch.equal(number, torch.rand(1))


@pytest.fixture
def two(make_source: MakeSource) -> Any:
    """A model with the adapters `actor` and `critic`, which are not 0."""
    net = load_causal_lm(make_source("llama"))
    inject(net, Lora(rank=2), "actor")
    inject(net, Lora(rank=4), "critic")
    return drawn(net)


def test_the_named_adapter_plays_and_then_what_played_before(two: Any, make_source: MakeSource) -> None:
    plain = logits(load_causal_lm(make_source("llama")).eval())
    last = logits(two)
    with activated(two, "actor"):
        actor = logits(two)
        with activated(two, None):
            assert torch.equal(logits(two), plain)
            with activated(two, "critic"):
                assert torch.equal(logits(two), last)
        assert torch.equal(logits(two), actor)
        with pytest.raises(RuntimeError, match="on purpose"), activated(two, "critic"):
            raise RuntimeError("on purpose")
        assert torch.equal(logits(two), actor)
    assert torch.equal(logits(two), last)
    assert (
        min(float((one - other).detach().abs().max()) for one, other in [(actor, plain), (last, plain), (actor, last)])
        > 1e-2
    )


def test_layers_that_get_an_adapter_later_play_too(make_source: MakeSource) -> None:
    net = load_causal_lm(make_source("llama")).eval()
    plain = logits(net)
    inject(net, Lora(target_modules=["q_proj"]), "first")
    with activated(net, "first"):
        inject(net, Lora(target_modules=["v_proj"]), "second")
    drawn(net)
    with activated(net, None):
        assert torch.equal(logits(net), plain)


def test_playing_changes_nothing_that_is_trained(two: Any) -> None:
    before = {name: weight.requires_grad for name, weight in two.named_parameters()}
    for name in ("actor", "critic", None):
        with activated(two, name):
            assert {name: weight.requires_grad for name, weight in two.named_parameters()} == before
    assert {name.split(".")[-2] for name, trained in before.items() if trained} == {"actor", "critic"}


def gradients(net: Any, *, backward_in: str | None) -> dict[str, Tensor]:
    """Gradients of a loss of both adapters, whose backward pass runs while another adapter is active."""
    net.train().zero_grad()
    loss = torch.zeros(())
    for name, weight in [("actor", 1.0), ("critic", 0.5), (None, 0.25)]:
        with activated(net, name):
            loss = loss + weight * net(IDS, use_cache=False).logits.logsumexp(-1).square().mean()
    with activated(net, backward_in):
        loss.backward()
    return {name: weight.grad.clone() for name, weight in net.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("backward_in", ["actor", "critic", None])
def test_a_block_that_is_computed_again_plays_what_it_played(
    backward_in: str | None, make_source: MakeSource, two: Any
) -> None:
    expected = gradients(two, backward_in="actor")
    assert len(expected) == sum(weight.requires_grad for weight in two.parameters())
    again = load_causal_lm(replace(make_source("llama"), gradient_checkpointing=True))
    inject(again, Lora(rank=2), "actor")
    inject(again, Lora(rank=4), "critic")
    again.load_state_dict(two.state_dict())
    calls = []
    again.model.layers[0].input_layernorm.register_forward_hook(lambda *_: calls.append(1))
    found = gradients(again, backward_in=backward_in)
    # The blocks run three times forward, and again for the backward pass of each adapter.
    assert len(calls) >= 5
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert_close(found[name], gradient, msg=name)


def test_adapters_are_in_fp32_beside_weights_in_16_bits(make_source: MakeSource) -> None:
    net = load_causal_lm(replace(make_source("llama"), dtype="bfloat16", adapter=Lora()))
    assert {weight.dtype for name, weight in net.named_parameters() if "lora" in name} == {torch.float32}
    assert {weight.dtype for name, weight in net.named_parameters() if "lora" not in name} == {torch.bfloat16}
    assert logits(net).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_head_and_bias_beside_an_adapter_learn_by_steps_that_16_bits_would_round_away(
    dtype: str, make_source: MakeSource
) -> None:
    source = replace(make_source("llama"), dtype=dtype)
    model = load_scalar_model(replace(source, adapter=Lora()), "normal")
    nn.init.ones_(model.bias)
    assert model.head.weight.dtype == model.bias.dtype == torch.float32
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    values = model(IDS, torch.ones_like(IDS, dtype=torch.bool))
    assert values.dtype == torch.float32
    values.sum().backward()
    optimizer = torch.optim.AdamW((w for w in model.parameters() if w.requires_grad), lr=1e-5, weight_decay=0.0)
    optimizer.step()
    for name in ("net.score.weight", "bias"):
        step = (model.get_parameter(name) - before[name]).detach().abs()
        assert_close(step, torch.full_like(step, 1e-5), atol=2e-7, rtol=0.0)
    whole = load_scalar_model(source, "normal")
    assert {weight.dtype for weight in whole.parameters()} == {source.torch_dtype}


def test_a_copy_of_a_net_plays_for_itself(two: Any) -> None:
    other = copy.deepcopy(two)
    with activated(two, "actor"), activated(other, None):
        assert float((logits(two) - logits(other)).detach().abs().max()) > 1e-2


def test_a_copy_of_a_net_whose_blocks_are_computed_again_plays_its_own_adapters(
    make_source: MakeSource, two: Any
) -> None:
    expected = gradients(two, backward_in="actor")
    again = load_causal_lm(replace(make_source("llama"), gradient_checkpointing=True))
    inject(again, Lora(rank=2), "actor")
    inject(again, Lora(rank=4), "critic")
    again.load_state_dict(two.state_dict())
    found = gradients(copy.deepcopy(again), backward_in="critic")
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert_close(found[name], gradient, msg=name)


def test_impossible_values_are_named_together() -> None:
    with pytest.raises(UserError) as error:
        Lora(rank=0, alpha=-1, dropout=1.0, target_modules=[])
    for name in ("rank=0", "alpha=-1", r"dropout=1.0", "target_modules=[]"):
        assert f"model.adapter.{name}" in str(error.value)


@pytest.mark.parametrize("target", ["lm_head", "nothing"])
def test_a_target_outside_the_blocks_is_an_error_that_names_those_inside(target: str, make_source: MakeSource) -> None:
    with pytest.raises(UserError, match=f"no linear layer {target} in its blocks; it has .*q_proj"):
        load_causal_lm(replace(make_source("llama"), adapter=Lora(target_modules=["q_proj", target])))


def test_only_named_targets_get_an_adapter(make_source: MakeSource) -> None:
    net = load_causal_lm(replace(make_source("llama"), adapter=Lora(target_modules=["v_proj"])))
    assert {name.split(".")[-4] for name, w in net.named_parameters() if w.requires_grad} == {"v_proj"}
