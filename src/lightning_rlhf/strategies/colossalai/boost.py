"""Turns a plain module and its optimizer into those of ColossalAI's Booster."""

import inspect
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import nn

from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.strategies.colossalai.cpu import allowed_on
from lightning_rlhf.strategies.colossalai.frozen import FrozenNets
from lightning_rlhf.strategies.colossalai.gemini import GeminiEngine
from lightning_rlhf.strategies.colossalai.zero import ZeroEngine

PLACEMENTS: dict[str, dict[str, Any]] = {
    "cuda": {"placement_policy": "static"},
    "cpu": {"placement_policy": "static", "offload_optim_frac": 1.0, "offload_param_frac": 1.0},
    "auto": {"placement_policy": "auto"},
}
"""Gemini's settings for each placement; the documentation of `GeminiPlugin` says how the names correspond."""
_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_ONLY: dict[str, tuple[Any, str]] = {
    "extra_dp_size": (1, "the optimizer is divided among all processes"),
    "tp_size": (1, "a layer is computed by one process"),
    "master_weights": (True, "checkpoints and exports are made from the fp32 master weights"),
}
"""The settings for which the engines support only one value, with that value and the reason."""
REQUIREMENTS = {
    "colossalai": "colossalai==0.5.0",
    "galore_torch": "galore-torch==1.0",
    "bitsandbytes": "bitsandbytes==0.50.2",
    "contexttimer": "contexttimer==0.3.3",
    "einops": "einops==0.8.2",
    "ninja": "ninja==1.13.2",
}
"""The requirement that installs each necessary module; requirements/colossalai.txt lists the same ones."""


def require_colossalai(wanted_by: str) -> None:
    """Checks that ColossalAI is installed.

    Args:
        wanted_by: The setting that needs it.

    Raises:
        UserError: If it is not installed; the message contains the command that installs it.
    """
    lacking = [module for module in REQUIREMENTS if find_spec(module) is None]
    # This package also uses private parts of ColossalAI, which may differ in another release.
    if not lacking and f"colossalai=={version('colossalai')}" != REQUIREMENTS["colossalai"]:
        lacking = [REQUIREMENTS["colossalai"]]
    if lacking:
        raise UserError(
            f"{wanted_by} needs {', '.join(lacking)}, which no extra can install, because ColossalAI requires an "
            "old PyTorch although it also runs with this one: run make colossalai, or "
            f"pip install --no-deps {' '.join(REQUIREMENTS.values())}"
        )


def import_colossalai() -> None:
    """Imports ColossalAI without its messages about libraries that only other parts of it use.

    A process must choose its GPU first, because default arguments in ColossalAI store the GPU that is current at the
    time of the import (zero/gemini/gemini_optimizer.py, `pack_optimizer_states_to_tensor`).
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import colossalai.booster.plugin  # noqa: F401
    finally:
        logging.disable(disabled)
    from colossalai.logging import get_dist_logger

    get_dist_logger().set_level("WARNING")
    # The deprecated functions that ColossalAI calls still work in current releases of PyTorch.
    for names in ("TypedStorage", r"`torch\.distributed\.(all_gather_into|reduce_scatter)_tensor`"):
        warnings.filterwarnings("ignore", message=f"{names} is deprecated")


def hybrid_adam(
    params: Iterable[Any], *, betas: Sequence[float] = (0.9, 0.999), **settings: Any
) -> torch.optim.Optimizer:
    """ColossalAI's AdamW, which updates weights on the GPU and in the CPU's memory; Gemini requires it.

    Args:
        params: Parameters or parameter groups.
        betas: Decay of the averages of the gradient and of its square.
        **settings: Other settings of `HybridAdam`: lr, eps, weight_decay.

    Raises:
        UserError: If ColossalAI is not installed, or has no kernel for this machine.
    """
    require_colossalai("optim=hybrid_adam")
    import_colossalai()
    from colossalai.nn.optimizer import HybridAdam

    try:
        # Checkpoints contain `betas`, and should contain no types of Hydra. PyTorch's optimizers convert it themselves.
        return HybridAdam(params, betas=tuple(betas), **settings)
    except AssertionError as error:
        raise UserError(f"optim=hybrid_adam is for Gemini, on a machine with a GPU: {error}") from error


def take_first_process_weights(module: nn.Module, device: torch.device) -> None:
    """Gives every process the weights and buffers of the first one, as DDP does when it wraps a module.

    Args:
        module: A module that differs among the processes only in its numbers. It stays on its device.
        device: The device of this process, through which tensors are sent.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        numbers = tensor.data.to(device)
        dist.broadcast(numbers, 0)
        tensor.data.copy_(numbers)


def boost(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    trainer: Trainer,
    *,
    dtype: torch.dtype,
    stage: int,
    placement_policy: str,
    settings: Mapping[str, object],
    device: torch.device,
    frozen: FrozenNets | None,
) -> ZeroEngine | GeminiEngine:
    """Casts and divides a module and its optimizer.

    Args:
        module: A module on the CPU. ColossalAI moves to the device what belongs there.
        optimizer: The optimizer of its parameters, which keeps the parameter groups and the state.
        trainer: Its settings say how gradients are clipped and accumulated.
        dtype: The dtype of the weights that compute.
        stage: 1, 2 or 3.
        placement_policy: One of `PLACEMENTS`.
        settings: Further settings of the plugin.
        device: The device of this process.
        frozen: The frozen models, which are set aside under Gemini.

    Raises:
        UserError: If the optimizer does not fit, or a setting does not exist.
    """
    from colossalai.booster import Booster
    from colossalai.booster.plugin import GeminiPlugin, LowLevelZeroPlugin

    # With an infinite bound, ColossalAI clips nothing but still computes the norm.
    fixed: dict[str, Any] = {"max_norm": float(trainer.gradient_clip_val or "inf")}
    if stage == 3:
        _check_optimizer(optimizer, placement_policy)
        plugin: Any = GeminiPlugin
        fixed |= PLACEMENTS[placement_policy]
        fixed |= {"precision": _NAMES[dtype]}
        fixed |= {"enable_gradient_accumulation": trainer.accumulate_grad_batches > 1}
        defaults: dict[str, Any] = {"pin_memory": True}
    else:
        plugin = LowLevelZeroPlugin
        # The plugin's own cast would include buffers and metrics. The optimizer uses the dtype of the parameters.
        fixed |= {"stage": stage, "precision": "fp32", "cpu_offload": placement_policy == "cpu"}
        # The plugin's default scale, 2^32, overflows in the first dozen steps.
        defaults = {"overlap_communication": device.type != "cpu", "initial_scale": 2.0**16}
    _check_settings(settings, plugin, fixed, device)
    before = {parameter: parameter.data for parameter in module.parameters()}
    for parameter in before:
        parameter.data = parameter.data.to(dtype)
    with _buffers_kept(module), allowed_on(device):
        boosted, outer, *_ = Booster(plugin=plugin(**fixed, **{**defaults, **settings})).boost(module, optimizer)
    dtypes = {parameter: weight.dtype for parameter, weight in before.items()}
    engine = GeminiEngine(boosted, outer, frozen, device) if frozen else ZeroEngine(dtypes, outer, device)
    engine.load({id(p): weight for p, weight in before.items() if id(p) in engine.parameters})
    return engine


def _check_optimizer(optimizer: torch.optim.Optimizer, placement_policy: str) -> None:
    from colossalai.nn.optimizer import CPUAdam, FusedAdam, HybridAdam

    # GeminiOptimizer accepts no subclasses.
    fits = [HybridAdam, FusedAdam] if placement_policy == "cuda" else [HybridAdam, CPUAdam]
    if type(optimizer) not in fits:
        raise UserError(
            f"ColossalAIStrategy: the optimizer is {type(optimizer).__name__}, and Gemini with "
            f"placement_policy={placement_policy} accepts only {' and '.join(each.__name__ for each in fits)} of "
            "colossalai.nn.optimizer: set optim=hybrid_adam"
        )


def _check_settings(
    settings: Mapping[str, object], plugin: type, fixed: Mapping[str, object], device: torch.device
) -> None:
    known = inspect.signature(plugin).parameters.keys()
    name = "GeminiPlugin" if "placement_policy" in known else "LowLevelZeroPlugin"
    only = dict(_ONLY)
    if device.type == "cpu" and "placement_policy" not in known:
        only["overlap_communication"] = (False, "a CPU has no streams that could overlap")
    problems = []
    for key, value in settings.items():
        if key in fixed:
            problems.append(f"plugin.{key}: the strategy sets it already")
        elif key not in known:
            problems.append(f"plugin.{key}: {name} has no such setting")
        elif key in only and value != only[key][0]:
            problems.append(f"plugin.{key}={value}: {only[key][1]}: remove it")
    raise_problems(f"ColossalAIStrategy: {problem}" for problem in problems)


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Keeps the numbers of buffers, which Gemini rounds: far positions need exact frequencies of rotary embeddings."""
    kept = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    yield
    for buffer, values in kept:
        buffer.data = values.to(buffer.device)
