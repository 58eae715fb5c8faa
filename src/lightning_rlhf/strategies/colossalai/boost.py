"""From a plain module and optimizer to those of ColossalAI's Booster."""

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
from lightning_rlhf.strategies.colossalai.precision import DTYPES
from lightning_rlhf.strategies.colossalai.zero import ZeroEngine

PLACEMENTS: dict[str, dict[str, Any]] = {
    "cuda": {"placement_policy": "static"},
    "cpu": {"placement_policy": "static", "offload_optim_frac": 1.0, "offload_param_frac": 1.0},
    "auto": {"placement_policy": "auto"},
}
"""What Gemini calls them since it has fractions; its documentation of `GeminiPlugin` says how the names correspond."""
_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_ONLY: dict[str, tuple[Any, str]] = {
    "extra_dp_size": (1, "the optimizer's shares are those of all processes"),
    "tp_size": (1, "a layer is computed by one process"),
    "master_weights": (True, "checkpoints and exports are made of the fp32 masters"),
}
"""Settings of which the engines know one value, and why."""
REQUIREMENTS = {
    "colossalai": "colossalai==0.5.0",
    "galore_torch": "galore-torch==1.0",
    "bitsandbytes": "bitsandbytes==0.50.2",
    "contexttimer": "contexttimer==0.3.3",
    "einops": "einops==0.8.2",
    "ninja": "ninja==1.13.2",
}
"""What brings each module that is needed; also in requirements/colossalai.txt."""


def require_colossalai(wanted_by: str) -> None:
    """Checks that ColossalAI is installed.

    Args:
        wanted_by: What the user asked for.

    Raises:
        UserError: If not; names the line that installs it.
    """
    lacking = [module for module in REQUIREMENTS if find_spec(module) is None]
    # What is between its lines is used too, and may be otherwise in another release.
    if not lacking and f"colossalai=={version('colossalai')}" != REQUIREMENTS["colossalai"]:
        lacking = [REQUIREMENTS["colossalai"]]
    if lacking:
        raise UserError(
            f"{wanted_by} needs {', '.join(lacking)}, which no extra can bring, since ColossalAI demands an old "
            f"PyTorch that it runs without: make colossalai, or pip install --no-deps {' '.join(REQUIREMENTS.values())}"
        )


def import_colossalai() -> None:
    """Imports it without what it says about libraries that only other parts of it use.

    Not before a process has chosen its GPU: default arguments in ColossalAI hold the one that is current
    (zero/gemini/gemini_optimizer.py, `pack_optimizer_states_to_tensor`).
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
    # What it calls still works in today's PyTorch.
    for names in ("TypedStorage", r"`torch\.distributed\.(all_gather_into|reduce_scatter)_tensor`"):
        warnings.filterwarnings("ignore", message=f"{names} is deprecated")


def hybrid_adam(
    params: Iterable[Any], *, betas: Sequence[float] = (0.9, 0.999), **settings: Any
) -> torch.optim.Optimizer:
    """ColossalAI's AdamW, which takes weights on the GPU and in the CPU's memory; Gemini demands it.

    Args:
        params: Parameters or groups of them.
        betas: Decay of the averages of the gradient and of its square.
        **settings: Others of `HybridAdam`: lr, eps, weight_decay.

    Raises:
        UserError: If ColossalAI is not installed, or has no kernel for this machine.
    """
    require_colossalai("optim=hybrid_adam")
    import_colossalai()
    from colossalai.nn.optimizer import HybridAdam

    try:
        # A checkpoint keeps them, which should hold no types of Hydra's; PyTorch's optimizers see to that themselves.
        return HybridAdam(params, betas=tuple(betas), **settings)
    except AssertionError as error:
        raise UserError(f"optim=hybrid_adam is for Gemini, on a machine with a GPU: {error}") from error


def check_trainer(trainer: Trainer, stage: int, precision: str) -> None:
    """Checks that ColossalAI can do what the trainer wants.

    Raises:
        UserError: If not; all reasons at once.
    """
    problems = []
    if precision not in DTYPES:
        problems.append(f"trainer.precision={precision}: ColossalAIStrategy knows {', '.join(DTYPES)}")
    elif stage == 3 and DTYPES[precision] == torch.float32:
        problems.append(f"trainer.precision={precision}: Gemini computes in 16 bits only: set bf16-mixed or 16-mixed")
    if trainer.gradient_clip_algorithm == "value" and trainer.gradient_clip_val:
        problems.append(
            "trainer.gradient_clip_algorithm=value: ColossalAIStrategy clips by norm only, inside the optimizer's step"
        )
    raise_problems(problems)


def take_first_process_weights(module: nn.Module, device: torch.device) -> None:
    """Gives every process the weights and buffers that the first one has, as DDP does when it wraps a module.

    Args:
        module: Alike on all processes but for its numbers; stays where it is.
        device: Of this process, where tensors are sent.
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
        module: On the CPU, from where ColossalAI moves what is to be on the device.
        optimizer: Of its parameters; stays the one to ask for groups and state.
        trainer: Says how gradients are clipped and accumulated.
        dtype: Of the weights that compute.
        stage: 1, 2 or 3.
        placement_policy: One of `PLACEMENTS`.
        settings: More for the plugin.
        device: Of this process.
        frozen: Nets that are set aside, for Gemini.

    Raises:
        UserError: If the optimizer does not fit, or there is no such setting.
    """
    from colossalai.booster import Booster
    from colossalai.booster.plugin import GeminiPlugin, LowLevelZeroPlugin

    # With an infinite bound nothing is clipped, but the norm is known.
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
        # Its own cast would also take buffers and metrics; the optimizer goes by the dtype of the parameters.
        fixed |= {"stage": stage, "precision": "fp32", "cpu_offload": placement_policy == "cpu"}
        # Its own scale, 2^32, overflows for the first dozen steps.
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

    # GeminiOptimizer takes no subclasses.
    fits = [HybridAdam, FusedAdam] if placement_policy == "cuda" else [HybridAdam, CPUAdam]
    if type(optimizer) not in fits:
        raise UserError(
            f"ColossalAIStrategy: the optimizer is {type(optimizer).__name__}, and Gemini with "
            f"placement_policy={placement_policy} takes only {' and '.join(each.__name__ for each in fits)} of "
            "colossalai.nn.optimizer: set optim=hybrid_adam"
        )


def _check_settings(
    settings: Mapping[str, object], plugin: type, fixed: Mapping[str, object], device: torch.device
) -> None:
    known = inspect.signature(plugin).parameters.keys()
    name = "GeminiPlugin" if "placement_policy" in known else "LowLevelZeroPlugin"
    only = dict(_ONLY)
    if device.type == "cpu" and "placement_policy" not in known:
        only["overlap_communication"] = (False, "a CPU has no stream that could overlap another")
    problems = []
    for key, value in settings.items():
        if key in fixed:
            problems.append(f"plugin.{key}: is set already")
        elif key not in known:
            problems.append(f"plugin.{key}: {name} has no such setting")
        elif key in only and value != only[key][0]:
            problems.append(f"plugin.{key}={value}: {only[key][1]}: leave it out")
    raise_problems(f"ColossalAIStrategy: {problem}" for problem in problems)


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Keeps the numbers of buffers, which Gemini rounds: far positions lie on the frequencies of rotary embeddings."""
    kept = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    yield
    for buffer, values in kept:
        buffer.data = values.to(buffer.device)
