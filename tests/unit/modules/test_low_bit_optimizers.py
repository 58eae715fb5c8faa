"""Optimizers of bitsandbytes make the steps of AdamW, with less state."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from torch import nn

import lightning_rlhf.errors
from lightning_rlhf.errors import UserError
from lightning_rlhf.modules.low_bit_optimizers import adamw

BITS = {"adamw_8bit": 8, "adamw_8bit_paged": 8, "adamw_32bit_paged": 32}


def groups(net: nn.Module) -> list[dict[str, Any]]:
    return [{"params": list(net.parameters()), "lr": 1e-2, "weight_decay": 0.1}]


def train(net: nn.Module, optimizer: Any, steps: int = 10) -> nn.Module:
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        (net(x) - x.sin()).square().mean().backward()
        optimizer.step()
    return net


def built(option: str, net: nn.Module) -> Any:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return instantiate(compose("train", [f"optim={option}", "run_dir=run"]).optim.optimizer)(groups(net))


@pytest.fixture
def net() -> nn.Module:
    pytest.importorskip("bitsandbytes", reason="needs the extra bitsandbytes")
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 64))


@pytest.mark.parametrize("option", BITS)
def test_it_goes_where_adamw_goes(option: str, net: nn.Module) -> None:
    plain, own = copy.deepcopy(net), copy.deepcopy(net)
    train(plain, torch.optim.AdamW(groups(plain)))
    optimizer = built(option, own)
    train(own, optimizer)
    for weight, expected, start in zip(own.parameters(), plain.parameters(), net.parameters(), strict=True):
        moved = (expected - start).norm()
        # A number in 8 bits differs by up to 2%, and one in 32 bits by rounding only.
        assert (weight - expected).norm() < moved * (0.1 if BITS[option] == 8 else 1e-4)
    # The matrices have 16,384 weights each, and the biases fewer than 4096.
    kinds = [state["state1"].dtype for state in optimizer.state.values()]
    matrix = torch.uint8 if BITS[option] == 8 else torch.float32
    assert kinds == [matrix, torch.float32, matrix, torch.float32]


@pytest.mark.parametrize("option", BITS)
def test_it_goes_on_from_a_checkpoint_as_if_nothing_had_been(option: str, net: nn.Module, tmp_path: Path) -> None:
    whole = copy.deepcopy(net)
    train(whole, built(option, whole), 6)
    first = copy.deepcopy(net)
    optimizer = built(option, first)
    train(first, optimizer, 3)
    torch.save({"net": first.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "kept")
    kept = torch.load(tmp_path / "kept", weights_only=True)
    net.load_state_dict(kept["net"])
    optimizer = built(option, net)
    optimizer.load_state_dict(kept["optimizer"])
    train(net, optimizer, 3)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), whole.parameters(), strict=True))


def test_without_bitsandbytes_the_extra_is_named(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightning_rlhf.errors, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=r"optim=adamw_8bit_paged needs .*lightning-rlhf\[bitsandbytes\]"):
        adamw(groups(net), 0.0, (0.9, 0.999), 1e-8, bits=8, paged=True)
