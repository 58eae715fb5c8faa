"""What a plan reads about a rollout engine with weights of its own."""

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from support import tiny_source

from lightning_rlhf.assembly.plan_engine import own_engine
from lightning_rlhf.errors import UserError


def node(dtype: str | None) -> DictConfig:
    target = "lightning_rlhf.rollout.engines.vllm_in_process.VllmEngine"
    return OmegaConf.create({"_target_": target, "cache_gib": 2.0, "dtype": dtype})


def test_an_engine_has_its_own_dtype_or_that_of_the_model() -> None:
    for dtype, expected in ((None, torch.float32), ("bfloat16", torch.bfloat16)):
        engine = own_engine(node(dtype), tiny_source())
        assert engine is not None
        assert (engine.cache_bytes, engine.dtype) == (2 * 2**30, expected)


def test_a_dtype_that_there_is_not_is_a_mistake_of_the_user() -> None:
    with pytest.raises(
        UserError, match="^rollout.engine.dtype=half: must be one of float32, bfloat16, float16, or null$"
    ):
        own_engine(node("half"), tiny_source())
