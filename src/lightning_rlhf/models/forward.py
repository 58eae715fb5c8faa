"""The only way in which this package calls a Hugging Face model: positions always come from the mask.

Shapes: B rows, T tokens, R response tokens, D hidden size, V vocabulary.
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from lightning_rlhf.experience import Sequences
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.ops.logprobs import token_logprobs
from lightning_rlhf.ops.sequences import position_ids


def _parameters(net: nn.Module) -> frozenset[str]:
    return _parameters_of(type(net.net if isinstance(net, Backbone) else net).forward)


@cache
def _parameters_of(function: Callable[..., object]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def position_arguments(net: nn.Module, attention_mask: Tensor, num_new: int | None = None) -> dict[str, Tensor]:
    """Returns the mask, and positions if the architecture has them (BLOOM has none, because ALiBi reads the mask).

    Args:
        net: A Hugging Face model.
        attention_mask: (B, T) bool.
        num_new: The number of last tokens that need positions because no cache holds them; None for all tokens.
    """
    arguments = {"attention_mask": attention_mask.long()}
    if "position_ids" in _parameters(net):
        positions = position_ids(attention_mask)
        arguments["position_ids"] = positions if num_new is None else positions[:, -num_new:]
    return arguments


def last_logits(net: nn.Module, input_ids: Tensor, num_last: int, **arguments: object) -> tuple[Tensor, Any]:
    """Computes logits at the last positions only, because the logits of a whole batch are the largest tensor.

    Args:
        net: A causal language model.
        input_ids: (B, T).
        num_last: The number of positions to keep.
        **arguments: Further arguments of the model's forward.

    Returns:
        (B, num_last, V) logits, and the model's whole output.
    """
    if "logits_to_keep" in _parameters(net):
        arguments["logits_to_keep"] = num_last
    output = net(input_ids=input_ids, **arguments)
    return output.logits[:, -num_last:], output


def response_logits(net: nn.Module, sequences: Sequences, temperature: float = 1.0) -> Tensor:
    """Computes the logits that predict each response token, at the position before it, divided by the temperature.

    Returns:
        (B, R, V).
    """
    num_responses = sequences.response_mask.shape[1]
    positions = position_arguments(net, sequences.attention_mask)
    logits, _ = last_logits(net, sequences.input_ids, num_responses + 1, use_cache=False, **positions)
    logits = logits[:, :-1]
    # A division by 1 would only create a second tensor of this size.
    return logits if temperature == 1 else logits / temperature


def response_logprobs(net: nn.Module, sequences: Sequences) -> Tensor:
    """Computes (B,) log-probs of whole responses with the stop token, in nats; drops logits of padding before fp32."""
    mask = sequences.response_mask
    logits, tokens = response_logits(net, sequences)[mask], sequences.responses[mask]
    logprobs = token_logprobs(logits[None], tokens[None])[0]
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, logprobs).sum(1)


def label_logprobs(net: nn.Module, input_ids: Tensor, attention_mask: Tensor, loss_mask: Tensor) -> Tensor:
    """Computes the log-probs of the tokens to learn; other tokens are dropped before the softmax over the vocabulary.

    Args:
        net: A causal language model.
        input_ids: (B, T).
        attention_mask: (B, T) bool.
        loss_mask: (B, T) bool, True at the N tokens to learn.

    Returns:
        (N,), in nats.
    """
    labels = loss_mask[:, 1:]
    logits = net(input_ids=input_ids, use_cache=False, **position_arguments(net, attention_mask)).logits[:, :-1]
    return token_logprobs(logits[labels][None], input_ids[:, 1:][labels][None])[0]


def hidden_states(backbone: nn.Module, input_ids: Tensor, attention_mask: Tensor, **arguments: object) -> Tensor:
    """Computes the last hidden states.

    Args:
        backbone: A model without a head.
        input_ids: (B, T).
        attention_mask: (B, T) bool.
        **arguments: Further arguments of its forward.

    Returns:
        (B, T, D).
    """
    positions = position_arguments(backbone, attention_mask)
    return backbone(input_ids=input_ids, use_cache=False, **positions, **arguments).last_hidden_state
