"""Starts vLLM in the process that trains, without changing what the trainer has set."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_rlhf.distributed.collectives import place_among_processes
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.exported_weights import plain_class
from lightning_rlhf.rollout.engines.vllm_sampling import LOGPROBS_MODE
from lightning_rlhf.rollout.engines.vllm_worker import EXTENSION

_ENVIRONMENT = {
    # The engine itself runs in this process, so that weights reach it without a copy between processes.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # The trainer decides about threads.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def start(net: Any, device: torch.device, **settings: object) -> Any:
    """Starts vLLM with the architecture of a model and random weights; all processes of a run do so together.

    Args:
        net: A Hugging Face model.
        device: The device of this process.
        settings: Further arguments of vLLM's `LLM`.

    Returns:
        The `LLM`.

    Raises:
        UserError: If vLLM does not support the architecture or a setting.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    rank, num_processes = place_among_processes()
    # Otherwise vLLM would take the first GPU, or connect the process to none of the others.
    launched = device.type == "cuda" or num_processes > 1
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    try:
        # vLLM seeds the global generators.
        with isolate_rng(), _as_launched(rank, device.index or 0), tempfile.TemporaryDirectory() as folder:
            from vllm import LLM

            config = type(net.config).from_dict(net.config.to_dict())
            config.architectures = [plain_class(net).__name__]
            config.save_pretrained(folder)
            return LLM(
                model=folder,
                load_format="dummy",
                distributed_executor_backend="external_launcher" if launched else "uni",
                skip_tokenizer_init=True,
                runner="generate",
                logprobs_mode=LOGPROBS_MODE,
                enable_prefix_caching=True,
                enforce_eager=device.type == "cpu",
                enable_sleep_mode=device.type == "cuda",
                worker_extension_cls=EXTENSION,
                generation_config="vllm",
                disable_log_stats=True,
                seed=0,
                **settings,
            )
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"rollout=vllm: vLLM cannot start with this model: {error}") from error
    finally:
        # On a CPU, vLLM replaces the function by one that does nothing, and takes all but one thread.
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)


@contextmanager
def _as_launched(rank: int, local_rank: int) -> Iterator[None]:
    """Context with the variables that a launcher sets for each process; vLLM reads them to find its device and rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"RANK": rank, "LOCAL_RANK": local_rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update({name: str(value) for name, value in own.items()})
    try:
        yield
    finally:
        # Lightning reads the same variables for processes that it starts itself.
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
