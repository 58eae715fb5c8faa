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
from lightning_rlhf.models.head import TokenStats, Wanted, chunked_logits, token_stats
from lightning_rlhf.models.packing import Arranged, packed
from lightning_rlhf.ops.projection import ChunkedLogits, chunked_kl
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


def arranged(net: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Arranged:
    """Arranges the tokens of a batch for a call of a model, packed if that saves work.

    Args:
        net: A Hugging Face model.
        input_ids: (B, T).
        attention_mask: (B, T) bool.
    """
    found = packed(net, input_ids, attention_mask)
    if found is not None:
        return found
    places = torch.arange(input_ids.numel(), device=input_ids.device).view_as(input_ids)
    return Arranged({"input_ids": input_ids, **position_arguments(net, attention_mask)}, places)


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


def response_logits(net: nn.Module, sequences: Sequences, temperature: float) -> ChunkedLogits:
    """Prepares the logits that predict the N response tokens, row by row, divided by the temperature.

    Args:
        net: A causal language model.
        sequences: B prompts with responses.
        temperature: The sampling temperature.
    """
    tokens = arranged(net, sequences.input_ids, sequences.attention_mask)
    return chunked_logits(net, _before(tokens, sequences.response_mask), tokens.arguments, temperature=temperature)


def response_kl(logits: ChunkedLogits, ref_logits: ChunkedLogits, mask: Tensor) -> Tensor:
    """Computes KL(actor || reference) before each response token from what `response_logits` has prepared.

    Args:
        logits: Those of the actor.
        ref_logits: Those of the reference.
        mask: (B, R) bool, the response tokens.

    Returns:
        (B, R), in nats; 0 after the end of a response.
    """
    return _in_rows(chunked_kl(logits, ref_logits), mask)


def _before(tokens: Arranged, mask: Tensor) -> Tensor:
    """The place before each token of a (B, R) mask of response tokens."""
    return tokens.places[:, -mask.shape[1] - 1 : -1][mask]


def response_stats(
    net: nn.Module, sequences: Sequences, *, temperature: float = 1.0, entropy: bool = False
) -> TokenStats:
    """Computes the statistics of each response token under a causal language model.

    Args:
        net: A causal language model.
        sequences: B prompts with responses.
        temperature: The sampling temperature, which divides the logits.
        entropy: Whether to compute entropies too.

    Returns:
        Statistics of shape (B, R), 0 after the end of a response.
    """
    tokens, mask = arranged(net, sequences.input_ids, sequences.attention_mask), sequences.response_mask
    wanted = Wanted(_before(tokens, mask), sequences.responses[mask])
    found = token_stats(net, wanted, tokens.arguments, temperature=temperature, entropy=entropy)
    entropies = None if found.entropy is None else _in_rows(found.entropy, mask)
    return TokenStats(_in_rows(found.logprobs, mask), entropies)


def _in_rows(numbers: Tensor, mask: Tensor) -> Tensor:
    """Puts the numbers of the True elements of a (B, R) mask in their places; the others are 0."""
    return numbers.new_zeros(mask.shape).masked_scatter(mask, numbers)


def response_logprobs(net: nn.Module, sequences: Sequences) -> Tensor:
    """Computes (B,) log-probs of whole responses with the stop token, in nats."""
    return response_stats(net, sequences).logprobs.sum(1)


def label_logprobs(net: nn.Module, input_ids: Tensor, attention_mask: Tensor, loss_mask: Tensor) -> Tensor:
    """Computes the log-probs of the tokens to learn; the head is not applied to the positions before other tokens.

    Args:
        net: A causal language model.
        input_ids: (B, T).
        attention_mask: (B, T) bool.
        loss_mask: (B, T) bool, True at the N tokens to learn.

    Returns:
        (N,), in nats.
    """
    labels = loss_mask[:, 1:]
    tokens = arranged(net, input_ids, attention_mask)
    wanted = Wanted(tokens.places[:, :-1][labels], input_ids[:, 1:][labels])
    return token_stats(net, wanted, tokens.arguments, temperature=1.0, entropy=False).logprobs


def hidden_states(backbone: nn.Module, input_ids: Tensor, attention_mask: Tensor, **arguments: object) -> Tensor:
    """Computes the last hidden states.

    Args:
        backbone: A model without a head.
        input_ids: (B, T).
        attention_mask: (B, T) bool.
        **arguments: Further arguments of its forward.

    Returns:
        (B, T, D); the numbers at padding mean nothing.
    """
    tokens = arranged(backbone, input_ids, attention_mask)
    hidden = backbone(use_cache=False, **tokens.arguments, **arguments).last_hidden_state
    if hidden.shape[:2] == input_ids.shape:
        return hidden
    return hidden.flatten(0, 1).index_select(0, tokens.places.flatten()).unflatten(0, input_ids.shape)
