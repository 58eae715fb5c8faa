"""Requests and completions in the terms of vLLM, which are the same in process and over HTTP."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_rlhf.errors import UserError
from lightning_rlhf.rollout.engines.engine import Completion, FinishReason, Request
from lightning_rlhf.rollout.sampling import Sampling

LOGPROBS_MODE = "processed_logprobs"
"""The setting with which vLLM gives the log-probs of the distribution that it draws from."""

_HOTTEST = 2.0


def sampling_params(request: Request, sampling: Sampling, stop_ids: tuple[int, ...]) -> dict[str, Any]:
    """Returns the arguments of vLLM's `SamplingParams` for a request.

    All settings of the distribution are named, since a server takes others from the `generation_config.json` of its
    model. Only the given ids end a response.
    """
    return {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "seed": request.key.as_seed(),
        # vLLM refuses -1, which stands for no token.
        "stop_token_ids": [token for token in stop_ids if token >= 0],
        "ignore_eos": True,
        "detokenize": False,
        # The log-prob of the token itself, and of no other token.
        "logprobs": 0,
    }


def check_requests(requests: Sequence[Request], sampling: Sampling, limit: int) -> None:
    """Checks that vLLM can draw all responses; it would end a longer one early, and refuses high temperatures.

    Args:
        requests: Prompts.
        sampling: Contains the length limit of a response.
        limit: The largest number of tokens of a prompt with its response.

    Raises:
        UserError: If a response may be longer, or the temperature is above vLLM's limit.
    """
    if sampling.temperature > _HOTTEST:
        raise UserError(
            f"rollout: temperature={sampling.temperature:g}: vLLM draws at temperatures up to {_HOTTEST:g}: lower it, "
            "or set rollout=native"
        )
    longest = max((len(request.prompt) for request in requests), default=0)
    if longest + sampling.max_new_tokens > limit:
        raise UserError(
            f"rollout: the longest prompt has {longest} tokens, and max_new_tokens={sampling.max_new_tokens}, but vLLM "
            f"reads at most {limit} tokens: raise its limit (rollout.engine.max_length, or --max-model-len of a "
            "server) up to the context of the model, or lower max_new_tokens or data.max_prompt_length"
        )


def completion(
    place: int,
    ids: Sequence[int],
    logprobs: Sequence[float],
    reason: str | None,
    versions: Sequence[str],
    wanted: int,
    sampling: Sampling,
) -> Completion:
    """Makes a completion of what vLLM has answered.

    Args:
        place: Index of the request.
        ids: Token ids of the response.
        logprobs: Log-prob of each id in the distribution that it was drawn from; not used if sampling is greedy.
        reason: Why the response ended, in vLLM's words.
        versions: The versions of the weights that wrote the response, as vLLM tracks them for each token.
        wanted: The version that the engine has given to vLLM.
        sampling: Settings of the sampling distribution.

    Raises:
        UserError: If vLLM has not finished the response, or other weights have written it.
    """
    if reason not in ("stop", "length"):
        raise UserError(f"rollout: vLLM has not finished a response ({reason}); its log says why")
    if set(versions) != {str(wanted)}:
        raise UserError(
            f"rollout: a response was written by the weights {', '.join(versions) or 'of an unknown version'}, and the "
            f"trainer has sent version {wanted}: a vLLM server can serve one run at a time; restart it, and resume"
        )
    # A greedy token is drawn with probability 1.
    kept = [0.0] * len(ids) if sampling.temperature == 0 else list(logprobs)
    finish: FinishReason = "stop" if reason == "stop" else "length"
    return Completion(place, list(ids), kept, finish, wanted)


def versions_of(spans: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """Returns the versions in vLLM's list of spans, each of which names the weights of some tokens."""
    return [str(span["version"]) for span in spans or ()]
