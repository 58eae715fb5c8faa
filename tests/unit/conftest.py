"""Tiny random models of six families, and sequences for them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import pad as widen
from transformers import PreTrainedModel

from lightning_rlhf.data.batches import pad
from lightning_rlhf.experience import Sequences
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.scalar import HeadInit, ScalarModel, load_scalar_model
from lightning_rlhf.models.source import ModelSource

_SHARED = {"vocab_size": 64}
# PAD is an ordinary token, so that code which looks for padding by its id is caught.
_PAD = 7
# The weights are large, so that a wrong position or a visible padding token changes the result a lot.
_STD = {"initializer_range": 0.4}
_FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {**_STD, "n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 64},
    "llama": {**_STD, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 64},
    "opt": {
        "init_std": 0.4,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_size": 32,
        "ffn_dim": 64,
        "word_embed_proj_dim": 32,
        "max_position_embeddings": 64,
    },
    "bloom": {**_STD, "n_layer": 2, "n_head": 4, "hidden_size": 32},
    "gptj": {**_STD, "n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 64, "rotary_dim": 4},
    "gpt_neox": {**_STD, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 64},
}


@pytest.fixture(scope="session")
def make_source() -> Callable[..., ModelSource]:
    """Describes a tiny model of a family."""

    def make(family: str = "gpt2", **settings: Any) -> ModelSource:
        config = {"model_type": family, **_SHARED, **_FAMILIES[family], **settings}
        return ModelSource(config=config, tokenizer="pkg://lightning_rlhf/demo/tokenizer")

    return make


@pytest.fixture(scope="session", params=_FAMILIES)
def source(request: pytest.FixtureRequest, make_source: Callable[..., ModelSource]) -> ModelSource:
    """Gives each family in turn."""
    return make_source(request.param)


@pytest.fixture(scope="session")
def make_causal_lm() -> Callable[..., PreTrainedModel]:
    """Builds a causal language model, which is the same for the same seed."""

    def make(source: ModelSource, seed: int = 0) -> PreTrainedModel:
        net = load_causal_lm(replace(source, seed=seed)).eval()
        net.config.pad_token_id = _PAD
        return net

    return make


@pytest.fixture(scope="session")
def make_scalar_model() -> Callable[..., ScalarModel]:
    """Builds a scalar model with a bias, which is the same for the same seed."""

    def make(source: ModelSource, head: HeadInit = "normal", seed: int = 1) -> ScalarModel:
        # The head is drawn from the global generator.
        torch.manual_seed(seed)
        model = load_scalar_model(replace(source, seed=seed), head).eval()
        torch.nn.init.constant_(model.bias, 0.5)
        model.hf_config.pad_token_id = _PAD
        return model

    return make


@pytest.fixture(scope="session")
def make_sequences() -> Callable[..., Sequences]:
    """Pads prompts and responses with `left` and `right` additional columns; `filler` is the id under the mask."""

    def make(
        prompts: list[list[int]], responses: list[list[int]], *, left: int = 0, right: int = 0, filler: int = 0
    ) -> Sequences:
        (prompt_ids, prompt_mask), (response_ids, response_mask) = pad(prompts, "left"), pad(responses)
        ids, mask = torch.cat([prompt_ids, response_ids], dim=1), torch.cat([prompt_mask, response_mask], dim=1)
        ids = widen(torch.where(mask, ids, filler), (left, right), value=filler)
        return Sequences(ids, widen(mask, (left, right)), widen(response_mask, (0, right)))

    return make
