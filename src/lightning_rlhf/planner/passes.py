"""Runs the passes of PPO and of the other stages on fake tensors under a trace.

Shapes: B rows, P prompt tokens, R response tokens, T = P + R, V vocabulary.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from transformers import Cache

from lightning_rlhf.experience import Answers, Sequences
from lightning_rlhf.models.forward import label_logprobs, last_logits, position_arguments, response_logprobs
from lightning_rlhf.models.packing import without_packing
from lightning_rlhf.models.roles import Roles
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.planner.trace import Segment, Trace, cuts, gradients
from lightning_rlhf.planner.weights import BACKBONE


def sequences(rows: int, prompt: int, response: int) -> Sequences:
    """B sequences without padding."""
    ids = torch.zeros(rows, prompt + response, dtype=torch.long)
    mask = torch.ones(rows, prompt + response, dtype=torch.bool)
    return Sequences(ids, mask, mask[:, prompt:])


def traced(module: nn.Module, nets: Mapping[str, nn.Module], work: Callable[[Trace], None]) -> list[Segment]:
    """Runs some work and returns its segments.

    Args:
        module: The module that holds all models that the work calls.
        nets: These models by role.
        work: The work. It enters a role of the trace before it calls the model of the role.
    """
    trace = Trace(module)
    with ExitStack() as stack:
        for role, net in nets.items():
            stack.enter_context(cuts(trace, net, None if role == BACKBONE else role))
        stack.enter_context(gradients(trace, module))
        stack.enter_context(trace)
        # Rows of full length cannot be packed, so padded rows are the most that a run needs. Besides, a fake mask has
        # no numbers from which lengths could be read.
        stack.enter_context(without_packing())
        work(trace)
    return trace.finish()


def scoring(roles: Roles, rows: int, prompt: int, response: int, *, exact_kl: bool) -> Callable[[Trace], None]:
    """Scores B sampled responses in the order of `rollout.collect`, without gradients."""

    def work(trace: Trace) -> None:
        batch = sequences(rows, prompt, response)
        # Keeps all results alive, as `rollout.collect` does.
        results: list[object] = []
        with torch.no_grad():
            trace.enter("reward", "input")
            results.append(roles.scores(Answers(batch, [], [], [])))
            trace.enter("actor", "input")
            results.append(roles.actor_stats(batch, temperature=1.0, entropy=True))
            results.append(roles.ref_logprobs(batch, temperature=1.0))
            trace.enter("critic", "input")
            results.append(roles.values(batch))
            if exact_kl:
                trace.enter("actor", "input")
                results.append(roles.exact_kl(batch, temperature=1.0))

    return work


def updating(
    roles: Roles, rows: int, prompt: int, response: int, *, entropy: bool, ptx: tuple[int, int]
) -> Callable[[Trace], None]:
    """A training step of PPO on B responses, with its backward pass.

    `ptx` is the number and the length of the pretraining texts that are mixed in.
    """

    def work(trace: Trace) -> None:
        batch = sequences(rows, prompt, response)
        trace.enter("critic", "input")
        values = roles.values(batch)
        parts = {} if values is None else {"critic": [values]}
        trace.enter("actor", "input")
        stats = roles.actor_stats(batch, temperature=1.0, entropy=entropy)
        parts["actor"] = [stats.logprobs]
        if stats.entropy is not None:
            parts["actor"].append(stats.entropy)
        if all(ptx):
            texts = sequences(ptx[0], 0, ptx[1])
            trace.enter("actor", "input")
            parts["actor"].append(roles.label_logprobs(texts.input_ids, texts.attention_mask, texts.response_mask))
        del stats, values
        _backward(trace, parts)

    return work


def imitating(net: nn.Module, rows: int, length: int) -> Callable[[Trace], None]:
    """A training step of SFT on B texts, with a loss on every token."""

    def work(trace: Trace) -> None:
        texts = sequences(rows, 0, length)
        trace.enter("actor", "input")
        logprobs = label_logprobs(net, texts.input_ids, texts.attention_mask, texts.response_mask)
        _backward(trace, {"actor": [logprobs]})

    return work


def judging(net: ScalarModel, rows: int, length: int) -> Callable[[Trace], None]:
    """A training step of a reward model on B answers."""

    def work(trace: Trace) -> None:
        texts = sequences(rows, 0, length)
        trace.enter("actor", "input")
        _backward(trace, {"actor": [net.scores(texts.input_ids, texts.attention_mask)]})

    return work


def preferring(nets: Mapping[str, nn.Module], rows: int, prompt: int, response: int) -> Callable[[Trace], None]:
    """A training step of DPO on B answers. A prompt has at least one token, which predicts the first response token."""

    def work(trace: Trace) -> None:
        batch = sequences(rows, prompt, response)
        trace.enter("actor", "input")
        logprobs = response_logprobs(nets["actor"], batch)
        if "reference" in nets:
            trace.enter("reference", "input")
            with torch.no_grad():
                response_logprobs(nets["reference"], batch)
        _backward(trace, {"actor": [logprobs]})

    return work


def _backward(trace: Trace, parts: dict[str, list[Tensor]]) -> None:
    """The backward pass of a loss on the outputs of roles. A role is entered when autograd reaches its output."""
    for role, given in parts.items():
        for part in given:
            part.register_hook(lambda gradient, role=role: trace.enter(role, "head"))
    loss = torch.stack([part.sum() for given in parts.values() for part in given]).sum()
    parts.clear()
    trace.backward = True
    loss.backward()


def grading(net: ScalarModel, rows: int, length: int) -> Callable[[Trace], None]:
    """Scores B sampled answers with a reward model, without gradients."""

    def work(trace: Trace) -> None:
        texts = sequences(rows, 0, length)
        trace.enter("actor", "input")
        with torch.no_grad():
            net.scores(texts.input_ids, texts.attention_mask)

    return work


def prefill(
    net: nn.Module, rows: int, prompt: int, sizes: dict[str, int], role: str = "actor"
) -> Callable[[Trace], None]:
    """The first forward pass of sampling, which reads B prompts. Puts the size of the key-value cache into `sizes`."""

    def work(trace: Trace) -> None:
        sizes["prefill"] = cache_size(_sampled(trace, role, net, rows, prompt, None))

    return work


def decoding(
    net: nn.Module, rows: int, length: int, sizes: dict[str, int], role: str = "actor"
) -> Callable[[Trace], None]:
    """The last forward pass of sampling, after `length` tokens. Their cache exists before the trace begins."""

    def work(trace: Trace) -> None:
        cache = _sampled(trace, role, net, rows, length, None)
        sizes["decoding"] = cache_size(cache)
        trace.forget()
        _sampled(trace, role, net, rows, length, cache)

    return work


def cache_size(cache: Cache) -> int:
    """Bytes of a key-value cache of transformers."""
    held = [tensor for layer in cache.layers for tensor in vars(layer).values() if isinstance(tensor, Tensor)]
    return sum(tensor.nbytes for tensor in held)


def _sampled(trace: Trace, role: str, net: nn.Module, rows: int, length: int, cache: Cache | None) -> Cache:
    trace.enter(role, "input")
    num_new = length if cache is None else 1
    ids = torch.zeros(rows, num_new, dtype=torch.long)
    mask = torch.ones(rows, length + (cache is not None), dtype=torch.bool)
    with torch.no_grad():
        positions = position_arguments(net, mask, num_new=num_new)
        logits, output = last_logits(net, ids, 1, past_key_values=cache, use_cache=True, **positions)
        # These are the operations of `rollout.engines.draw`.
        probabilities = logits[:, -1].float().softmax(-1)
        probabilities.cumsum(-1, dtype=torch.float64)
    return output.past_key_values
