"""The parts of gpu_first_run.py that need no run: facts, equality with a CPU, and rollouts beside `generate`.

Shapes: B rows, T tokens, R response tokens.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from transformers import GenerationConfig

from lightning_rlhf.assembly.config_files import options
from lightning_rlhf.benchmark.gemm import gemm_flops, wait
from lightning_rlhf.benchmark.lengths import prompt_lengths, random_ids
from lightning_rlhf.callbacks.run_record import versions
from lightning_rlhf.data.batches import pad
from lightning_rlhf.experience import Sequences
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.forward import response_logprobs
from lightning_rlhf.rollout.engines.engine import Request
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey

GENERATED = "transformers generate"
_ROWS, _PROMPT, _RESPONSE, _REPEATS = 16, 48, 32, 3
_LOGPROBS = {torch.float32: 1e-4, torch.bfloat16: 0.03}
"""Largest differences of the mean log-prob of a response, in nats, that rounding explains."""
_GRADIENTS = {torch.float32: 1e-3, torch.bfloat16: 0.05}
"""Largest relative differences of the norm of the gradient."""


def facts(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads",
        "device_bytes": torch.cuda.get_device_properties(device).total_memory if on_gpu else None,
        "cuda": torch.version.cuda,
        "gemm_tflops": {
            str(dtype).removeprefix("torch."): gemm_flops(device, dtype) / 1e12
            for dtype in ([torch.float32, torch.bfloat16] if on_gpu else [torch.float32])
        },
        "versions": versions(),
    }


def random_net(model: str) -> Any:
    """A causal language model of an option of `model` with random weights, on the CPU, in evaluation mode."""
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("benchmark", [f"model={model}", "run_dir=."])
    return load_causal_lm(instantiate(config.model, _convert_="all")).eval()


def equality(model: str, device: torch.device) -> dict[str, dict[str, Any]]:
    """Compares log-probs and the gradient of their mean between a device and the CPU, in fp32 and in bf16.

    Returns:
        By the type of the computation: the largest difference of the mean log-prob of a response in nats, the relative
        difference of the norm of the gradient, and whether rounding explains both.
    """
    net = random_net(model)
    batch = _sequences(net.config.vocab_size)
    found = {}
    for dtype in _LOGPROBS:
        here, there = (_computed(net, batch, place, dtype) for place in (torch.device("cpu"), device))
        difference = float((here[0] - there[0]).abs().max())
        relative = abs(there[1] / here[1] - 1)
        found[str(dtype).removeprefix("torch.")] = {
            "logprobs": difference,
            "gradient": relative,
            "equal": difference <= _LOGPROBS[dtype] and relative <= _GRADIENTS[dtype],
        }
    return found


def _sequences(vocabulary: int) -> Sequences:
    """Rows with padding on both sides."""
    prompts = random_ids(prompt_lengths(_ROWS, 8, _PROMPT, 1), vocabulary, (), 1)
    answers = random_ids(prompt_lengths(_ROWS, 4, _RESPONSE, 2), vocabulary, (), 2)
    (prompt_ids, prompt_mask), (answer_ids, answer_mask) = pad(prompts, side="left"), pad(answers)
    ids, mask = torch.cat([prompt_ids, answer_ids], 1), torch.cat([prompt_mask, answer_mask], 1)
    return Sequences(ids, mask, answer_mask)


def _computed(net: Any, batch: Sequences, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, float]:
    """Mean log-probs of the tokens of each response (B,) on the CPU, and the norm of the gradient of their mean."""
    net.to(device).zero_grad()
    moved = Sequences(*(part.to(device) for part in batch))
    with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
        logprobs = response_logprobs(net, moved).float() / moved.response_mask.sum(1)
    logprobs.mean().backward()
    norm = torch.stack([weight.grad.float().norm() for weight in net.parameters() if weight.grad is not None]).norm()
    net.zero_grad()
    return logprobs.detach().cpu(), float(norm)


def engines() -> list[str]:
    """The engines that sample with the trained model itself, the default first."""
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        default = str(compose("train", return_hydra_config=True).hydra.runtime.choices["rollout"])
    known = [name for name in ("native", "padded") if name in options("rollout")]
    return sorted(known, key=lambda name: name != default)


def rollouts(model: str, device: torch.device) -> dict[str, dict[str, float]]:
    """Tokens per second of each engine and of `generate`, for 8 and 32 prompts of 32 tokens and answers of 32.

    Returns:
        By the name of the engine, and then by the number of prompts.
    """
    net = random_net(model).to(device)
    found: dict[str, dict[str, float]] = {}
    for rows in (8, 32):
        prompts = random_ids([32] * rows, net.config.vocab_size, (), 3)
        for name in engines():
            with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
                config = compose("train", [f"rollout={name}", f"rollout.micro_batch_size={rows}"])
            engine = instantiate(config.rollout.engine)(net, device)
            engine.update_weights(iter(net.state_dict().items()), 0)
            requests = [Request(ids, RandomKey(1, (SAMPLING, 0), row)) for row, ids in enumerate(prompts)]

            def sample() -> None:
                engine.generate(requests, Sampling(max_new_tokens=32), stop_ids=())  # noqa: B023

            found.setdefault(name, {})[str(rows)] = 32 * rows / _seconds(sample, device)
        ids = torch.tensor(prompts, device=device)
        settings = GenerationConfig(max_new_tokens=32, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
        settings.pad_token_id = 0

        def generated() -> None:
            net.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)  # noqa: B023

        found.setdefault(GENERATED, {})[str(rows)] = 32 * rows / _seconds(generated, device)
    return found


@torch.no_grad()
def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """The median seconds of some repeats, after one that does not count."""
    seconds = []
    for _ in range(_REPEATS + 1):
        start = time.perf_counter()
        work()
        wait(device)
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])
