"""The head of a causal language model, applied to some positions only, and without all of their logits at once.

The model is called as a whole, since strategies gather the weights of the module that is called. For the call, the
forward function of the head is replaced by one that computes log-probs in the place of logits.

Shapes: B rows, T tokens, N positions, D hidden size.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.overrides import has_torch_function
from transformers import PreTrainedModel

from lightning_rlhf.distributed.shapes import is_divided, whole_shape
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.fast_layers import FastLinear
from lightning_rlhf.ops.logprobs import token_entropy, token_logprobs
from lightning_rlhf.ops.projection import ChunkedLogits, LogitForm, dtype_of_products, projected_stats


class TokenStats(NamedTuple):
    """Log-prob of each token, and entropy of the distribution it was drawn from, in nats."""

    logprobs: Tensor
    entropy: Tensor | None
    """None if it was not asked for."""


class Wanted(NamedTuple):
    """The positions that a call needs, and the tokens that they predict."""

    places: Tensor
    """(N,) int64 indices into the (B * T) positions of the call, row by row."""
    tokens: Tensor
    """(N,) int64 token ids."""


def token_stats(
    net: nn.Module, wanted: Wanted, arguments: dict[str, Any], *, temperature: float, entropy: bool
) -> TokenStats:
    """Calls a model, and computes the statistics of the wanted tokens.

    Args:
        net: A causal language model, or a `Backbone`.
        wanted: The N positions.
        arguments: Arguments of its forward.
        temperature: The sampling temperature, which divides the logits.
        entropy: Whether to compute entropies.

    Returns:
        Statistics of shape (N,), in fp32.

    Raises:
        UserError: If the model changes its logits in a way that is not known here.
    """
    inner, head = _with_head(net)
    form = logit_form(inner)._replace(temperature=temperature)

    def stats(hidden: Tensor) -> Tensor:
        chosen = hidden.flatten(0, 1).index_select(0, wanted.places)
        if has_plain_head(inner):
            return projected_stats(chosen, head.weight, head.bias, wanted.tokens, form, entropy)
        logits = form.logits(type(head).forward(head, chosen))[None]
        found = [token_logprobs(logits, wanted.tokens[None])]
        return torch.cat([*found, token_entropy(logits)] if entropy else found)

    with _instead_of_logits(inner, head, stats):
        found = net(use_cache=False, **arguments).logits
    return TokenStats(found[0], found[1] if entropy else None)


@torch.no_grad()
def chunked_logits(net: nn.Module, places: Tensor, arguments: dict[str, Any], *, temperature: float) -> ChunkedLogits:
    """Calls a model, and prepares its logits at some positions, without gradients.

    What a plain head reads is kept instead of its logits, and its weights are copied where a strategy takes them back
    after the call. Other heads are applied at once.

    Args:
        net: A causal language model, or a `Backbone`.
        places: (N,) int64 indices into the (B * T) positions of the call, row by row.
        arguments: Arguments of its forward.
        temperature: The sampling temperature, which divides the logits.

    Raises:
        UserError: If the model changes its logits in a way that is not known here.
    """
    inner, head = _with_head(net)
    form = logit_form(inner)._replace(temperature=temperature)
    stays = all(remains(weight) for weight in head.parameters())
    kept: list[Any] = []

    def read(hidden: Tensor) -> Tensor:
        chosen = hidden.flatten(0, 1).index_select(0, places)
        if not has_plain_head(inner):
            return type(head).forward(head, chosen)
        dtype = dtype_of_products(head.weight)
        for part in (head.weight, head.bias):
            kept.append(None if part is None else part.detach().to(dtype, copy=not stays))
        return chosen.to(dtype)

    with _instead_of_logits(inner, head, read):
        found = net(use_cache=False, **arguments).logits
    if not kept:
        return ChunkedLogits(lambda rows: form.logits(found[rows]), *found.shape)
    return ChunkedLogits(lambda rows: form.logits(linear(found[rows], *kept)), len(found), head.out_features)


def remains(weight: nn.Parameter) -> bool:
    """Whether a weight is there outside calls too, as a plain tensor."""
    return not is_divided(weight) and weight.shape == whole_shape(weight) and not has_torch_function((weight,))


def _with_head(net: nn.Module) -> tuple[PreTrainedModel, Any]:
    inner: PreTrainedModel = net.net if isinstance(net, Backbone) else net  # type: ignore[assignment]
    return inner, inner.get_output_embeddings()


def has_plain_head(net: PreTrainedModel) -> bool:
    """Whether the head is a linear layer without an adapter, whose weights are not quantized."""
    return type(net.get_output_embeddings()) in (nn.Linear, FastLinear)


def logit_form(net: PreTrainedModel) -> LogitForm:
    """What a family does with the products of hidden states and head, at temperature 1."""
    config = net.config.get_text_config()
    scale = getattr(net, "logit_scale", None) or 1 / getattr(config, "logits_scaling", 1.0)
    return LogitForm(scale=scale, softcap=getattr(config, "final_logit_softcapping", None))


@contextmanager
def _instead_of_logits(net: PreTrainedModel, head: nn.Module, stats: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Context in which a model returns a function of the head's input instead of its logits."""
    kept: list[Tensor] = []

    def keep(head: nn.Module, arguments: Any, output: Tensor) -> None:
        kept.append(output)

    def put(net: PreTrainedModel, arguments: Any, output: Any) -> Any:
        # A softcap or a scale has been applied to the statistics too, which is undone here.
        if output.logits is not kept[-1] and logit_form(net) == LogitForm():
            raise UserError(
                f"{type(net).__name__} changes the logits of its head in a way that is not known here, so log-probs "
                "would be wrong: choose another family of models"
            )
        output.logits = kept[-1]
        return output

    with ExitStack() as stack:
        # `keep` runs after the hooks of strategies that watch the output of the head, and `put` runs before those that
        # watch the output of the model.
        stack.callback(head.register_forward_hook(keep).remove)
        stack.callback(net.register_forward_hook(put, prepend=True).remove)
        before = vars(head).get("forward")
        vars(head)["forward"] = stats
        stack.callback(vars(head).update, forward=before) if before else stack.callback(vars(head).pop, "forward")
        yield
