"""Which models get flash attention, and when they do without it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from lightning_rlhf.models.attention import FLASH, chosen_attention, without_flash
from lightning_rlhf.models.export_check import said
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.models.source import ModelSource

MakeSource = Callable[..., ModelSource]
FITS: dict[str, Any] = {"precision": "bf16-mixed", "on_cuda": True, "installed": True}


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true", "16-true"])
def test_a_family_that_is_tested_with_it_gets_it_in_16_bits_on_a_gpu(precision: str, make_source: MakeSource) -> None:
    config = make_source("llama").hf_config()
    assert chosen_attention(config, **FITS | {"precision": precision}) == FLASH


@pytest.mark.parametrize(
    "missing", [{"precision": "32-true"}, {"precision": "64-true"}, {"on_cuda": False}, {"installed": False}]
)
def test_everything_else_keeps_the_attention_of_transformers(missing: dict[str, Any], make_source: MakeSource) -> None:
    assert chosen_attention(make_source("llama").hf_config(), **FITS | missing) is None


@pytest.mark.parametrize("family", ["bloom", "gptj"])
def test_a_family_without_it_does_not_get_it(family: str, make_source: MakeSource) -> None:
    assert chosen_attention(make_source(family).hf_config(), **FITS) is None


def test_heads_must_not_be_larger_than_the_kernel_allows(make_source: MakeSource) -> None:
    for size, expected in ((256, FLASH), (264, None)):
        config = make_source("llama", head_dim=size).hf_config()
        assert chosen_attention(config, **FITS) == expected
    # GPT-2 has no such setting, but divides its width.
    config = make_source("gpt2", hidden_size=1024, num_attention_heads=2).hf_config()
    assert chosen_attention(config, **FITS) is None


def test_a_model_does_without_it_for_a_while(
    make_source: MakeSource, make_causal_lm: Callable[..., PreTrainedModel]
) -> None:
    net = make_causal_lm(make_source("llama"))
    holder = torch.nn.ModuleDict({"backbone": net})
    net.config._attn_implementation = FLASH

    def fails() -> None:
        with without_flash(holder):
            assert net.config._attn_implementation == "sdpa"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert net.config._attn_implementation == FLASH
    net.config._attn_implementation = "eager"
    with without_flash(holder):
        assert net.config._attn_implementation == "eager"


def test_an_export_is_checked_without_it(
    make_source: MakeSource,
    make_causal_lm: Callable[..., PreTrainedModel],
    make_scalar_model: Callable[..., ScalarModel],
) -> None:
    for net in (make_causal_lm(make_source("llama")), make_scalar_model(make_source("llama"))):
        expected = said(net)
        config: Any = next(module.config for module in net.modules() if isinstance(module, PreTrainedModel))
        config._attn_implementation = FLASH
        # Flash attention could not be computed here.
        assert torch.equal(said(net).numbers, expected.numbers)
        assert config._attn_implementation == FLASH
