"""Weights in 16 bits."""

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins import FSDPPrecision
from support import tiny_source

from lightning_rlhf.distributed.half_precision import keep_digits
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.strategies.fsdp.precision import Precision


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-true", torch.bfloat16), ("16-true", torch.float16)])
def test_weights_are_cast_and_buffers_are_not(precision: str, dtype: torch.dtype) -> None:
    trainer = pl.Trainer(accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False)
    keep_digits(trainer)
    net = load_causal_lm(tiny_source())
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    trainer.strategy.precision_plugin.convert_module(net)
    assert {weight.dtype for weight in net.parameters()} == {dtype}
    assert before
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())


def test_other_precisions_stay_as_they_are() -> None:
    trainer = pl.Trainer(accelerator="cpu", precision="bf16-mixed", logger=False, enable_checkpointing=False)
    plugin = trainer.precision_plugin
    keep_digits(trainer)
    assert trainer.precision_plugin is plugin


@pytest.mark.parametrize("strategy", ["single", "fsdp"])
def test_numbers_of_a_batch_keep_their_digits(strategy: str) -> None:
    """Old log-probs have three digits in bf16, so the ratio would not begin at 1."""
    trainer = pl.Trainer(accelerator="cpu", precision="bf16-true", logger=False, enable_checkpointing=False)
    keep_digits(trainer)
    of_fsdp = Precision(FSDPPrecision("bf16-true"), torch.device("cpu"))
    plugin: Any = of_fsdp if strategy == "fsdp" else trainer.precision_plugin
    logprobs = torch.tensor([-1.2345678])
    assert torch.equal(plugin.convert_input({"old_logprobs": logprobs})["old_logprobs"], logprobs)
