"""Weights in 16 bits."""

import lightning.pytorch as pl
import pytest
import torch
from support import tiny_source

from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.strategies.half import keep_buffers


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-true", torch.bfloat16), ("16-true", torch.float16)])
def test_weights_are_cast_and_buffers_are_not(precision: str, dtype: torch.dtype) -> None:
    trainer = pl.Trainer(accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False)
    keep_buffers(trainer)
    net = load_causal_lm(tiny_source())
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    trainer.strategy.precision_plugin.convert_module(net)
    assert {weight.dtype for weight in net.parameters()} == {dtype}
    assert before
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())


def test_other_precisions_stay_as_they_are() -> None:
    trainer = pl.Trainer(accelerator="cpu", precision="bf16-mixed", logger=False, enable_checkpointing=False)
    plugin = trainer.precision_plugin
    keep_buffers(trainer)
    assert trainer.precision_plugin is plugin
