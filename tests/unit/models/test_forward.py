"""Calls of Hugging Face models: positions, and the logits to keep; test_invariances.py checks what must not matter."""

from collections.abc import Callable

import torch
from torch.testing import assert_close
from transformers import PreTrainedModel

from lightning_rlhf.models.forward import last_logits, position_arguments
from lightning_rlhf.models.source import ModelSource

MakeNet = Callable[..., PreTrainedModel]


def test_positions_are_given_where_the_family_takes_them(
    make_source: Callable[..., ModelSource], make_causal_lm: MakeNet
) -> None:
    mask = torch.tensor([[False, True, True], [True, True, True]])
    arguments = position_arguments(make_causal_lm(make_source("gpt2")), mask)
    assert arguments["position_ids"].tolist() == [[0, 0, 1], [0, 1, 2]]
    assert arguments["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]
    assert set(position_arguments(make_causal_lm(make_source("bloom")), mask)) == {"attention_mask"}


def test_with_a_cache_positions_are_those_of_the_new_tokens(
    make_source: Callable[..., ModelSource], make_causal_lm: MakeNet
) -> None:
    mask = torch.tensor([[False, True, True], [True, True, True]])
    arguments = position_arguments(make_causal_lm(make_source("gpt2")), mask, num_new=1)
    assert arguments["position_ids"].tolist() == [[1], [2]]
    assert arguments["attention_mask"].shape == (2, 3)


def test_last_logits_are_the_end_of_all_logits(source: ModelSource, make_causal_lm: MakeNet) -> None:
    net, ids = make_causal_lm(source), torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        kept, _ = last_logits(net, ids, 2)
        assert_close(kept, net(ids).logits[:, -2:])
