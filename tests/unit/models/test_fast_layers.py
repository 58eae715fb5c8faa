"""Layers that compute the numbers of transformers' layers in another way."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.activations import ACT2FN
from transformers.models.bloom.modeling_bloom import BloomGelu
from transformers.pytorch_utils import Conv1D

from lightning_rlhf.models import fast_layers
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.fast_layers import FastConv1D, FastLinear, Processor, speed_up, way
from lightning_rlhf.models.source import ModelSource

OTHER, INTEL = Processor(avx512=True, full_mkl=False), Processor(avx512=True, full_mkl=True)


@pytest.fixture(params=[OTHER, INTEL], ids=["other", "intel"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Processor:
    """The rules of a processor; both libraries run on any."""
    monkeypatch.setattr(fast_layers, "processor", lambda: request.param)
    return request.param


def passed(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The output for some rows, and the gradients of input, weights and bias."""
    x = x.clone().requires_grad_()
    out = layer(x)
    out.sin().sum().backward()
    grads = [parameter.grad for parameter in layer.parameters()]
    assert x.grad is not None
    return [out.detach(), x.grad, *(grad for grad in grads if grad is not None)]


LAYERS = {
    "linear": lambda: nn.Linear(48, 80),
    "no bias": lambda: nn.Linear(48, 80, bias=False),
    "conv1d": lambda: Conv1D(80, 48),
    # 12 KB from row to row, and more than 512 rows: the transposed product stays with the default library.
    "colliding": lambda: Conv1D(3072, 512),
}


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", [(2, 3), (4, 40), (70,)])
def test_a_layer_and_its_gradients_are_those_of_double_precision(
    kind: Processor, name: str, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]()
    x = torch.randn(*shape, 48 if name != "colliding" else 512)
    exact = passed(copy.deepcopy(layer).double(), x.double())
    holder = nn.ModuleList([layer])
    speed_up(holder)
    for found, expected in zip(passed(holder[0], x), exact, strict=True):
        assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
def test_a_second_derivative_is_refused_instead_of_being_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_layers, "processor", lambda: OTHER)
    x = torch.randn(64, 48, requires_grad=True)
    (first,) = torch.autograd.grad(FastLinear(48, 80)(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.square().sum().backward()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
@pytest.mark.parametrize("rows", [1, 5, 32, 64])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_layer_without_gradients_computes_the_same_in_each_way(
    kind: Processor, rows: int, transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(fast_layers, "LARGE", 1)
    layer: Any = FastConv1D(80, 48) if transposed else FastLinear(48, 80)
    plain: Any = Conv1D(80, 48) if transposed else nn.Linear(48, 80)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(1, rows, 48)
    with torch.no_grad():
        assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-5)


def test_the_rules_depend_on_shapes_threads_and_the_processor_alone() -> None:
    def chosen(
        kind: Processor, rows: int, out: int, inner: int, *, threads: int = 1, transposed: bool = False, learns: bool
    ) -> str:
        stride = out if transposed else inner
        return way(kind, threads, rows, out * inner, stride, transposed=transposed, learns=learns)

    # An update: MKL is as fast as the processor, unless the processor is of another maker.
    assert chosen(INTEL, 512, 3072, 768, learns=True) == "default"
    assert chosen(OTHER, 512, 3072, 768, learns=True) == "onednn"
    assert chosen(Processor(avx512=False, full_mkl=False), 512, 3072, 768, learns=True) == "default"
    # Rows of 3072 numbers lie 3 pages apart, rows of 2304 numbers do not lie whole pages apart.
    assert chosen(OTHER, 512, 3072, 768, transposed=True, learns=True) == "default"
    assert chosen(OTHER, 512, 2304, 768, transposed=True, learns=True) == "onednn"
    # Sampling: a few rows through a large matrix, and through the head of a vocabulary.
    assert chosen(INTEL, 8, 3072, 768, learns=False) == "onednn"
    # The matrix of 884,736 numbers is large for one thread, and not for two.
    assert [chosen(INTEL, 8, 1536, 576, threads=threads, learns=False) for threads in (1, 2)] == ["onednn", "default"]
    assert chosen(INTEL, 8, 50257, 768, learns=False) == "onednn"
    assert chosen(Processor(avx512=False, full_mkl=True), 8, 50257, 768, learns=False) == "turned"
    assert chosen(INTEL, 8, 3072, 768, transposed=True, learns=False) == "default"
    assert {chosen(INTEL, rows, 3072, 768, learns=False) for rows in (1, 4, 33, 64)} == {"default"}
    assert chosen(INTEL, 8, 256, 256, learns=False) == "default"


def test_the_rules_count_the_threads_that_torch_uses(kind: Processor) -> None:
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(fast_layers.choose(8, torch.empty(1536, 576), transposed=False, learns=False))
    finally:
        torch.set_num_threads(before)
    assert found == ["onednn", "default"]


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast", "gelu_accurate", "bloom"])
def test_gelu_is_one_operator_with_the_numbers_of_the_formula(name: str) -> None:
    act = BloomGelu() if name == "bloom" else ACT2FN[name]
    holder = nn.Sequential(act)
    speed_up(holder)
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64, requires_grad=True)
    before, after = (torch.autograd.grad(f(x).sum(), x)[0] for f in (act, holder))
    # BLOOM rounds sqrt(2 / pi) to eight digits.
    assert_close(holder(x), act(x), rtol=1e-6, atol=1e-8)
    assert_close(after, before, rtol=1e-6, atol=1e-8)
    graph = holder(x).grad_fn
    assert graph is not None
    assert graph.name() == "GeluBackward0"
    assert [edge.name() for edge, _ in graph.next_functions if edge] == ["torch::autograd::AccumulateGrad"]


def test_other_activations_and_layers_of_other_kinds_stay() -> None:
    class Own(nn.Linear):
        pass

    layers = [nn.GELU(), ACT2FN["quick_gelu"], ACT2FN["gelu"], Own(1024, 1024), nn.Linear(2, 2)]
    holder = nn.Sequential(*layers)
    before = [type(layer) for layer in layers]
    speed_up(holder)
    assert [type(layer) for layer in holder][:4] == before[:4]


def test_a_model_keeps_names_weights_and_kinds_of_layers(kind: Processor) -> None:
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=50, n_positions=16)
    net = GPT2LMHeadModel(config).eval()
    names = {name: type(module) for name, module in net.named_modules()}
    weights, ids = copy.deepcopy(net.state_dict()), torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        before = net(ids).logits
        speed_up(net)
        assert_close(net(ids).logits, before, rtol=1e-4, atol=1e-5)
    assert net.state_dict().keys() == weights.keys()
    for name, module in net.named_modules():
        assert isinstance(module, names[name]) or "act" in name
    assert isinstance(net.transformer.h[0].mlp.c_fc, FastConv1D) == (not kind.full_mkl)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_and_autocast_are_left_to_torch(kind: Processor, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = FastLinear(48, 80)
    plain = nn.Linear(48, 80)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(70, 48)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), plain(x))
    assert torch.equal(layer.to(dtype)(x.to(dtype)), plain.to(dtype)(x.to(dtype)))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
@pytest.mark.parametrize("rows", [12, 70])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_numbers_of_a_weight_are_not_kept_for_the_backward_pass(
    kind: Processor, rows: int, transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ZeRO-3 takes the numbers of a weight back after a forward pass, and brings them again for the backward pass.
    zero3 = pytest.importorskip("deepspeed.runtime.zero.linear")
    monkeypatch.setattr(nn.functional, "linear", zero3.zero3_linear_wrap)
    layer: Any = FastConv1D(80, 48) if transposed else FastLinear(48, 80)
    x = torch.randn(2, rows // 2, 48, requires_grad=True)
    out = layer(x)
    layer.weight.data = brought = torch.randn_like(layer.weight)
    (grad,) = torch.autograd.grad(out.sum(), x)
    # Each output counts once, so the gradient of an input is the sum of its weights.
    assert_close(grad, brought.sum(int(transposed)).expand_as(x), rtol=1e-4, atol=1e-4)


def test_a_model_that_is_built_has_fused_activations(make_source: Any) -> None:
    source: ModelSource = make_source("gpt2")
    kinds = {type(module).__name__ for module in load_causal_lm(source).modules()}
    assert "GELUTanh" in kinds
    assert "NewGELUActivation" not in kinds
