"""Arranged weights: the same products, and no trace of them afterwards."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightning_rlhf.models import arranged as module
from lightning_rlhf.models.arranged import arrangeable, arranged
from lightning_rlhf.models.fast_layers import FastConv1D, FastLinear, speed_up
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.engines.engine import Request
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.engines.padded import PaddedEngine
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey

pytestmark = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="needs MKL")

CPU = torch.device("cpu")
REQUESTS = [Request([row + 1, 7, 2 * row + 3], RandomKey(0, (SAMPLING,), row)) for row in range(6)]
WHOLE = Sampling(max_new_tokens=16, temperature=2.0)


class Block(nn.Module):
    """A block with layers of all kinds, large ones and a small one."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.no_bias = nn.Linear(256, 320), nn.Linear(256, 320, bias=False)
        self.conv, self.small = Conv1D(320, 256), nn.Linear(256, 8)


class Net(nn.Module):
    """A model of one such block, and a head."""

    _no_split_modules = ("Block",)

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Block(), nn.Linear(256, 512)


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of any size are arranged."""
    monkeypatch.setattr(module, "SMALL", 1)
    monkeypatch.setattr(module, "TRANSPOSED_CALLS", 1)


def replaced(net: nn.Module) -> list[str]:
    """Names of the layers that multiply with arranged weights."""
    return [name for name, layer in net.named_modules() if "forward" in vars(layer)]


@torch.no_grad()
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", ["linear", "no_bias", "conv"])
def test_products_are_those_of_double_precision(name: str, fast: bool) -> None:
    torch.manual_seed(0)
    net = Net()
    layer: Any = getattr(net.block, name)
    if layer.bias is not None:
        layer.bias.normal_()
    exact = copy.deepcopy(layer).double()
    if fast:
        speed_up(net)
        layer.__class__ = FastConv1D if name == "conv" else FastLinear
    with arranged(net, rows=8, calls=128):
        assert f"block.{name}" in replaced(net)
        for shape in [(0, 1), (1, 1), (8, 1), (13, 1), (7, 9), (64, 1), (20, 8)]:
            x = torch.randn(*shape, 256)
            assert_close(layer(x).double(), exact(x.double()), rtol=1e-5, atol=1e-5)
        turned = torch.randn(256, 5).t()
        assert_close(layer(turned).double(), exact(turned.double()), rtol=1e-5, atol=1e-5)


def test_large_layers_of_blocks_are_arranged_if_it_pays() -> None:
    net = Net()
    with arranged(net, rows=5, calls=128):
        assert replaced(net) == ["block.linear", "block.no_bias", "block.conv"]
    with arranged(net, rows=5, calls=127):
        assert replaced(net) == ["block.linear", "block.no_bias"]
    with arranged(net, rows=5, calls=16):
        assert replaced(net) == ["block.linear", "block.no_bias"]
    for rows, calls in ((4, 16), (5, 15)):
        with arranged(net, rows=rows, calls=calls):
            assert replaced(net) == []


def test_layers_are_as_before_after_an_error_too() -> None:
    net = Net()
    with pytest.raises(KeyError), arranged(net, rows=8, calls=16):
        vars(net).pop("nothing")
    assert replaced(net) == []


def test_one_context_inside_another_leaves_the_layers_to_it() -> None:
    net = Net()
    with arranged(net, rows=8, calls=16):
        outer = {name: net.get_submodule(name).forward for name in replaced(net)}
        with arranged(net, rows=8, calls=16):
            assert {name: net.get_submodule(name).forward for name in replaced(net)} == outer
        assert {name: net.get_submodule(name).forward for name in replaced(net)} == outer
    assert replaced(net) == []


def divided(net: Net) -> None:
    for weight in net.parameters():
        weight.whole_shape = torch.Size([4096, 4096])  # type: ignore[attr-defined]


def compiled(net: Net) -> None:
    net.block.compile()


def subclass(net: Net) -> None:
    class Quantized(nn.Linear):
        pass

    for layer in (net.block.linear, net.block.no_bias):
        layer.__class__ = Quantized
    net.block.conv = nn.Identity()  # type: ignore[assignment]


def elsewhere(net: Net) -> None:
    net.to("meta")


def in_16_bits(net: Net) -> None:
    net.bfloat16()


@pytest.mark.parametrize("change", [divided, compiled, subclass, elsewhere, in_16_bits])
def test_other_layers_stay_as_they_are(change: Callable[[Net], None]) -> None:
    net = Net()
    change(net)
    with arranged(net, rows=8, calls=128):
        assert replaced(net) == []


def test_autocast_and_gradients_are_left_to_torch() -> None:
    net, x = Net(), torch.randn(8, 256)
    with torch.autocast("cpu", torch.bfloat16), arranged(net, rows=8, calls=16):
        assert replaced(net) == []
    with arranged(net, rows=8, calls=16):
        net.block.linear(x).sum().backward()
    assert net.block.linear.weight.grad is not None


@pytest.mark.usefixtures("small_is_large")
def test_a_rollout_sees_the_weights_that_an_update_has_changed(
    source: ModelSource, make_causal_lm: Callable[..., PreTrainedModel]
) -> None:
    net = make_causal_lm(source)
    engine, before = NativeEngine(net, CPU), None
    for _ in range(2):
        completions = engine.generate(REQUESTS, WHOLE, stop_ids=())
        expected = PaddedEngine(net, CPU).generate(REQUESTS, WHOLE, stop_ids=())
        assert [one.ids for one in completions] == [one.ids for one in expected] != before
        assert replaced(net) == []
        before = [one.ids for one in completions]
        with torch.no_grad():
            for layer in arrangeable(net):
                layer.weight.mul_(-1)


@pytest.mark.usefixtures("small_is_large")
def test_a_rollout_that_is_given_up_leaves_no_trace(
    source: ModelSource, make_causal_lm: Callable[..., PreTrainedModel]
) -> None:
    net = make_causal_lm(source)
    begun = NativeEngine(net, CPU).iterate(REQUESTS, WHOLE, stop_ids=())
    next(begun)
    assert replaced(net)
    del begun
    assert replaced(net) == []
