"""Proof that an engine with weights of its own has those of the trainer: a canary, and the ratio of the first update.

That an engine has confirmed a transfer proves little. Weights may have arrived under other names, a packed copy of them
may be old, and cached keys and values may be those of older weights. The engine therefore answers the same prompt after
each transfer, and its log-probs must be those that the trained model gives to the same tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_rlhf.data.batches import pad
from lightning_rlhf.distributed.collectives import gather_objects
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Sequences
from lightning_rlhf.models.forward import response_stats
from lightning_rlhf.ops.masked import masked_mean
from lightning_rlhf.rollout.collect import Samples
from lightning_rlhf.rollout.engines.engine import Completion, Request
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey

CANARY = Sampling(max_new_tokens=16, temperature=0.7)
"""The distribution of the canary. Its temperature is not 1, so that log-probs at another temperature are noticed."""
EXACT, ROUNDED = 1e-4, 0.15
"""Tolerances in nats: for the largest difference if both sides compute in fp32, and for the mean difference otherwise.

In bf16 the log-probs of equal weights differ by 0.06 on average, and by up to 0.33; docs/vllm.md says with which model.
"""
RATIO = (0.9, 1.1)
"""Between these bounds, the geometric mean of the importance ratios of a rollout is about 1.

Its logarithm is minus the KL of the engine to the actor, in nats a token, which rounding to 16 bits hardly changes. The
arithmetic mean says little: it is 1 in expectation whatever the engine draws from.
"""

# Longer than a block of the prefix cache (128 tokens on a CPU), so that an old cache is noticed.
_PROMPT = 144


def canary(vocab_size: int, context: int) -> Request:
    """Returns the request of the canary: a prompt of tokens from all over the vocabulary, the same each time.

    Args:
        vocab_size: Number of token ids.
        context: Largest number of tokens of prompt and response; a short one shortens the prompt.

    Raises:
        UserError: If the context has no room for the response and a prompt of one token.
    """
    if context <= CANARY.max_new_tokens:
        raise UserError(
            f"rollout: vLLM reads at most {context} tokens of a prompt with its response, and the check of its weights "
            f"takes at least {CANARY.max_new_tokens + 1}: raise that limit (rollout.engine.max_length, or "
            "--max-model-len of a server), or use a model with a longer context"
        )
    length = min(_PROMPT, context - CANARY.max_new_tokens)
    # The multiplier of Knuth's hash spreads the numbers over any range.
    prompt = [(place + 1) * 2654435761 % 2**32 % vocab_size for place in range(length)]
    return Request(prompt, RandomKey(0, (SAMPLING, 0), 0))


@torch.no_grad()
def differs(net: nn.Module, device: torch.device, request: Request, answer: Completion, dtype: torch.dtype) -> str:
    """Compares the log-probs of the canary with those of the trained model; all processes call this together.

    The tolerance is that of the coarser dtype: of the engine's, or of the dtype in which the trained model computes
    here.

    Args:
        net: The model that is trained, in evaluation mode.
        device: Its device.
        request: The canary.
        answer: What the engine has drawn, at the settings `CANARY`.
        dtype: The dtype in which the engine computes.

    Returns:
        What is wrong, in words; empty if the engine has the weights of the model.
    """
    (prompt, prompt_mask), (response, mask) = pad([request.prompt], "left"), pad([answer.ids])
    ids, both = torch.cat([prompt, response], dim=1).to(device), torch.cat([prompt_mask, mask], dim=1).to(device)
    sequences = Sequences(ids, both, mask.to(device))
    own = response_stats(net, sequences, temperature=CANARY.temperature).logprobs[0].float().cpu()
    computed = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else _coarsest(net)
    return _apart(own, torch.tensor(answer.logprobs), max(dtype, computed, key=_rounding))


def differs_from(proven: Completion, answer: Completion, dtype: torch.dtype) -> str:
    """Compares an answer to the canary with one that was compared with the trained model.

    Args:
        proven: The earlier answer, by the same weights.
        answer: The answer to check.
        dtype: The dtype in which both were drawn.

    Returns:
        What is wrong, in words; empty if both come from the same weights.
    """
    # Up to the first token that differs by rounding, the log-probs are comparable.
    same = [one == other for one, other in zip(proven.ids, answer.ids, strict=True)]
    length = same.index(False) if False in same else len(same)
    if length == 0:
        return "it has drawn another first token than a server with these weights"
    return _apart(torch.tensor(proven.logprobs[:length]), torch.tensor(answer.logprobs[:length]), dtype)


def _coarsest(net: nn.Module) -> torch.dtype:
    """Returns the coarsest dtype of the weights of a model, in which one that has several computes in part."""
    return max({weight.dtype for weight in net.parameters() if weight.is_floating_point()}, key=_rounding)


def _rounding(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


def _apart(own: Tensor, others: Tensor, dtype: torch.dtype) -> str:
    apart, exact = (own - others).abs(), dtype == torch.float32
    found, limit = float(apart.max() if exact else apart.mean()), EXACT if exact else ROUNDED
    # NaN is not within the limit either.
    if found <= limit:
        return ""
    return f"its log-probs differ from those of the trained model by {found:.3g} nats, where {limit:g} is rounding"


def check_canary(problem: Callable[[], str], where: str, version: int) -> None:
    """Stops the run, on all processes, if the engine of any process does not have the weights of the trainer.

    Args:
        problem: Compares this process's engine with the trained model; see `differs`.
        where: The engine, for the message.
        version: The version of the weights.

    Raises:
        UserError: If an engine differs.
    """
    found = next((text for text in gather_objects([problem()]) if text), "")
    if found:
        raise unproven(where, version, found)


def unproven(where: str, version: int, problem: str) -> UserError:
    """Makes the error for an engine that does not have the weights of the trainer."""
    return UserError(
        f"{where} does not have the weights of the trainer after the transfer of version {version}: {problem}. Nothing "
        "was trained on its responses. Check that it serves this model in the trainer's dtype, with --logprobs-mode "
        "processed_logprobs, and that no other run sends it weights; docs/vllm.md explains the check"
    )


def check_first_ratio(samples: Samples) -> None:
    """Checks that the actor gives the tokens of a rollout about the probability with which they were drawn, on average.

    Args:
        samples: The samples of all processes.

    Raises:
        UserError: If the geometric mean of the ratios of the probabilities is not about 1.
    """
    log_ratio = (samples.logprobs - samples.sampler_logprobs).clamp(-20, 20)
    mean = float(masked_mean(log_ratio, samples.sequences.response_mask).exp())
    if not RATIO[0] <= mean <= RATIO[1]:
        raise UserError(
            f"rollout: before the update, the actor gives the sampled tokens {mean:.3g} times the probability with "
            f"which the engine drew them (geometric mean), and {RATIO[0]:g} to {RATIO[1]:g} is about 1: the engine "
            "samples from another model. Use one dtype in engine and trainer (rollout.engine.dtype, trainer.precision),"
            " or set rollout=native"
        )
