"""Draws responses with vLLM in the process that trains, on the same device.

The engine has weights of its own. On a GPU it sleeps during the update: its weights move to the memory of the host, and
its cache is freed.
"""

import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.models.precision import exported_dtype
from lightning_rlhf.models.source import DTYPES
from lightning_rlhf.rollout.canary import CANARY, canary, check_canary, differs
from lightning_rlhf.rollout.engines.engine import Completion, Decode, Request, Token, generate_by_iterating
from lightning_rlhf.rollout.engines.stops import Stops
from lightning_rlhf.rollout.engines.vllm_agreement import agreed
from lightning_rlhf.rollout.engines.vllm_sampling import check_requests, completion, sampling_params
from lightning_rlhf.rollout.engines.vllm_start import start
from lightning_rlhf.rollout.engines.vllm_version import check_installed
from lightning_rlhf.rollout.engines.vllm_weights import hf_net, sent_weights
from lightning_rlhf.rollout.sampling import Sampling


class VllmEngine:
    """Samples with vLLM in this process; a `rollout.engines.engine.RolloutEngine`, which describes the methods."""

    shares_weights = False
    generate = generate_by_iterating

    def __init__(
        self,
        net: nn.Module,
        device: torch.device,
        *,
        cache_gib: float = 1.0,
        max_sequences: int = 256,
        max_length: int | None = None,
        dtype: str | None = None,
        timeout: float = 600.0,
    ) -> None:
        """Starts vLLM with the architecture of the model, and with random weights.

        Args:
            net: The model that is trained.
            device: The device of the process.
            cache_gib: Memory for cached keys and values, in GiB.
            max_sequences: Number of responses that are sampled at a time.
            max_length: Largest number of tokens of a prompt with its response; None for the context of the model.
            dtype: The dtype in which vLLM computes; None for that in which the model was loaded.
            timeout: Number of seconds in which at least one response must end, or the run stops.

        Raises:
            UserError: If a value is invalid, vLLM is missing or has an untested version, or does not know the model.
        """
        # The canary has to fit.
        room = CANARY.max_new_tokens
        raise_problems(
            f"rollout.engine.{name}={value}: must {rule}"
            for name, value, holds, rule in [
                ("cache_gib", cache_gib, cache_gib > 0, "be positive"),
                ("max_sequences", max_sequences, max_sequences > 0, "be positive"),
                ("max_length", max_length, max_length is None or max_length > room, f"be above {room}"),
                ("dtype", dtype, dtype is None or dtype in DTYPES, f"be one of {', '.join(DTYPES)}, or null"),
                ("timeout", timeout, timeout > 0, "be positive"),
            ]
            if not holds
        )
        check_installed("rollout=vllm")
        self.net, self.device, self.timeout = net, device, timeout
        self.dtype = exported_dtype(hf_net(net)) if dtype is None else DTYPES[dtype]
        self.weights_version: int | None = None
        self._is_proven, self._sleeps, self._numbers = False, False, count()
        self._llm = start(
            hf_net(net),
            device,
            kv_cache_memory_bytes=round(cache_gib * 2**30),
            max_num_seqs=max_sequences,
            max_model_len=max_length,
            dtype=str(self.dtype).removeprefix("torch."),
        )
        self._core = self._llm.llm_engine
        self.max_length: int = self._core.vllm_config.model_config.max_model_len
        # Another trainer gets another engine, and this one must leave its memory.
        weakref.finalize(self, self._core.engine_core.shutdown)
        self._canary = canary(hf_net(net).config.get_text_config().vocab_size, self.max_length)

    def iterate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        stop_ids: tuple[int, ...],
        decode: Decode | None = None,
    ) -> Iterator[Completion]:
        """Yields each response when it has ended; see `RolloutEngine.iterate`."""
        stops = Stops(sampling, stop_ids, decode)
        self._prove()
        yield from agreed(map(stops.cut, self._finished(requests, sampling, stop_ids)))

    def stream(
        self, request: Request, sampling: Sampling, *, stop_ids: tuple[int, ...], decode: Decode | None = None
    ) -> Iterator[Token]:
        """Yields the tokens of one response as they are drawn; see `RolloutEngine.stream`."""
        stops = Stops(sampling, stop_ids, decode)
        self._prove()
        seen = 0
        for _, output in self._outputs([request], sampling, stop_ids):
            said = output.outputs[0]
            for place in range(seen, len(said.token_ids)):
                token = said.token_ids[place]
                logprob = 0.0 if sampling.temperature == 0 else said.logprobs[place][token].logprob
                reason = stops.reason(said.token_ids[: place + 1])
                yield Token(token, logprob, reason)
                if reason is not None:
                    return
            seen = len(said.token_ids)

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Gives vLLM the weights, and forgets what it has cached with the old ones; see `RolloutEngine`."""
        self._llm.collective_rpc("take_weights_of", args=(sent_weights(self.net, weights),))
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM has kept its prefix cache, although no request runs")
        self._core.set_weight_version(str(version))
        self.weights_version, self._is_proven = version, False

    def release(self) -> None:
        """Moves the weights to the host and frees the cache, on a GPU; vLLM cannot sleep on a CPU."""
        if self.device.type == "cuda" and not self._sleeps:
            self._llm.sleep(level=1)
            self._sleeps = True

    def resume(self) -> None:
        """Brings the weights back, and makes an empty cache."""
        if self._sleeps:
            self._llm.wake_up()
            self._sleeps = False

    def _prove(self) -> None:
        """Checks new weights with the canary, before anything is sampled with them."""
        if self._is_proven:
            return
        if self.weights_version is None:
            raise RuntimeError("the engine has no weights yet")

        def problem() -> str:
            (answer,) = self._finished([self._canary], CANARY, ())
            return differs(self.net, self.device, self._canary, answer, self.dtype)

        check_canary(problem, "rollout=vllm: vLLM", self.weights_version)
        self._is_proven = True

    def _finished(
        self, requests: Sequence[Request], sampling: Sampling, stop_ids: tuple[int, ...]
    ) -> Iterator[Completion]:
        version = self.weights_version
        assert version is not None
        for place, output in self._outputs(requests, sampling, stop_ids):
            if output.finished:
                said = output.outputs[0]
                logprobs = [of[token].logprob for token, of in zip(said.token_ids, said.logprobs, strict=True)]
                versions = [span.version for span in said.weight_versions or ()]
                yield completion(place, said.token_ids, logprobs, said.finish_reason, versions, version, sampling)

    def _outputs(
        self, requests: Sequence[Request], sampling: Sampling, stop_ids: tuple[int, ...]
    ) -> Iterator[tuple[int, Any]]:
        """Yields what vLLM has drawn so far for a request, after each of its steps, with the index of the request."""
        from vllm import SamplingParams

        check_requests(requests, sampling, self.max_length)
        names = {f"{next(self._numbers)}": place for place in range(len(requests))}
        left = set[str]()
        try:
            for name, request in zip(names, requests, strict=True):
                params = SamplingParams(**sampling_params(request, sampling, stop_ids))
                self._core.add_request(name, {"prompt_token_ids": request.prompt}, params)
                left.add(name)
            ended = time.monotonic()
            while left:
                # vLLM draws from the global generator even where each request has its own.
                with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                    outputs = self._core.step()
                for output in outputs:
                    if output.finished:
                        left.discard(output.request_id)
                        ended = time.monotonic()
                    yield names[output.request_id], output
                if time.monotonic() - ended > self.timeout:
                    raise UserError(
                        f"rollout.engine.timeout={self.timeout:g}: no response has ended for so many seconds, and "
                        f"{len(left)} are open: raise it if responses are that slow"
                    )
        finally:
            # A caller that stops early leaves nothing behind, and neither does a request that vLLM refuses.
            self._core.abort_request(list(left))
