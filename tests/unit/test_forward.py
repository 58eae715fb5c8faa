"""Calls of Hugging Face nets: positions, the logits to keep, and no trace of padding."""

from collections.abc import Callable

import torch
from torch.testing import assert_close
from transformers import PreTrainedModel

from lightning_rlhf.experience import Sequences
from lightning_rlhf.models.forward import last_logits, position_arguments, response_logits
from lightning_rlhf.models.source import ModelSource

MakeNet = Callable[..., PreTrainedModel]
PROMPTS = [[11, 12, 13, 14], [7], [21, 7, 2]]
RESPONSES = [[30], [31, 7, 33, 2], [34, 35, 2]]


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


def test_response_logits_are_those_of_each_row_alone_without_padding(
    source: ModelSource, make_causal_lm: MakeNet, make_sequences: Callable[..., Sequences]
) -> None:
    net = make_causal_lm(source)
    with torch.no_grad():
        for layout in [{}, {"left": 3, "filler": 7}, {"right": 2, "filler": 63}, {"left": 5, "right": 1, "filler": 2}]:
            logits = response_logits(net, make_sequences(PROMPTS, RESPONSES, **layout))
            for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
                alone = net(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
                assert_close(logits[row, : len(response)], alone, atol=1e-5, rtol=1e-5)


def test_padding_changes_no_gradient(
    source: ModelSource, make_causal_lm: MakeNet, make_sequences: Callable[..., Sequences]
) -> None:
    net, gradients = make_causal_lm(source), []
    for layout in [{}, {"left": 3, "right": 2, "filler": 7}]:
        sequences = make_sequences(PROMPTS, RESPONSES, **layout)
        net.zero_grad()
        response_logits(net, sequences).logsumexp(-1)[sequences.response_mask].sum().backward()
        gradients.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-3)
