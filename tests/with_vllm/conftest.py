"""Tests with a real vLLM, which has an environment of its own: make test-vllm. Elsewhere they are skipped."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.source import ModelSource


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "with_vllm" and find_spec("vllm") is None:
            item.add_marker(pytest.mark.skip(reason="needs vLLM: make test-vllm"))


# vLLM's kernels for CPUs want heads of a multiple of 32.
_FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 2, "n_head": 2, "n_embd": 64, "n_positions": 256},
    "llama": {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 64, "intermediate_size": 128},
}


@pytest.fixture(scope="session")
def make_net() -> Callable[..., PreTrainedModel]:
    """Builds a tiny model with large weights, so that old weights or an old cache change the log-probs a lot."""

    def make(family: str, *, tied: bool, **settings: Any) -> PreTrainedModel:
        config = {"model_type": family, "vocab_size": 96, "initializer_range": 0.3, "tie_word_embeddings": tied}
        config |= {"max_position_embeddings": 256} if family == "llama" else {}
        source = ModelSource(
            config=config | _FAMILIES[family], tokenizer="pkg://lightning_rlhf/demo/tokenizer", **settings
        )
        return load_causal_lm(source).eval()

    return make


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cpu")
