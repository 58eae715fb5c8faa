"""The checkpoint of a DeepSpeed strategy: a folder that DeepSpeed's engine writes, each process its own part.

last.ckpt/
  latest                           contains the name of the folder beside it
  checkpoint/*_model_states.pt     loops, callbacks, schedulers, data, and the weights of ZeRO 1 and 2: one file, or
                                   under ZeRO 3 one file for each process
  checkpoint/*_optim_states.pt     one file for each process: its part of the fp32 weights and of the optimizer's state
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_rlhf.errors import UserError, require
from lightning_rlhf.strategies.pickle_checks import check_deepspeed, check_file, deepspeed_classes

TAG = "checkpoint"


def is_deepspeed_checkpoint(path: Path) -> bool:
    """Whether a path is such a folder."""
    return (path / "latest").is_file() and bool(_parts(path))


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Returns whole fp32 weights by their names in the module, on the CPU, without the processes that wrote them.

    Args:
        checkpoint: The folder.

    Raises:
        UserError: If DeepSpeed is not installed, the optimizer was on NVMe, or a file could run code.
    """
    require("deepspeed", "deepspeed", f"checkpoint={checkpoint}, which DeepSpeed has written,")
    _refuse_nvme(checkpoint)
    check_deepspeed(checkpoint / TAG)
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    # The function prints each of its steps, and no setting turns that off.
    with redirect_stdout(StringIO()):
        weights = dict(get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), TAG))
    whole = checkpoint / TAG / "mp_rank_00_model_states.pt"
    if whole.is_file():
        # The function leaves out frozen weights under ZeRO 1 (engine.py, `_save_checkpoint`: from ZeRO 2 on).
        weights = {**torch.load(whole, map_location="cpu", weights_only=True, mmap=True)["module"], **weights}
    return weights


def read_rest(checkpoint: Path) -> dict[str, Any]:
    """Returns what Lightning has saved in a folder, beside weights and optimizer states.

    Raises:
        UserError: If DeepSpeed is not installed, or the file is missing or could run code.
    """
    require("deepspeed", "deepspeed", f"checkpoint={checkpoint}, which DeepSpeed has written,")
    # Each process writes the same under ZeRO 3.
    file = min((checkpoint / TAG).glob("*_model_states.pt"), default=None)
    if file is None:
        raise UserError(f"{checkpoint}: there is no {TAG}/*_model_states.pt in it: copy the whole folder again")
    with deepspeed_classes():
        check_file(file)
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)


def unchanged(module: LightningModule) -> tuple[str, ...]:
    """Returns the prefixes of the weights that a checkpoint need not contain."""
    return getattr(module, "unchanged", tuple)()


@contextmanager
def left_out(module: LightningModule) -> Iterator[None]:
    """Context in which the module's state leaves out the weights that do not change.

    The engine itself leaves out frozen weights by their first name only, and a tied weight has two names.
    """

    def drop(_: nn.Module, state: dict[str, Tensor], *__: object) -> None:
        for name in [name for name in state if name.startswith(unchanged(module))]:
            del state[name]

    hook = module.register_state_dict_post_hook(drop)
    try:
        yield
    finally:
        hook.remove()


def leaves_out_frozen(module: LightningModule) -> bool:
    """Whether a checkpoint contains no frozen weights: the engine writes either all of them or none."""
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    return all(name.startswith(unchanged(module)) for name in frozen)


def check(path: Path, *, processes: int, zero3: bool) -> None:
    """Checks that a run can resume from a checkpoint.

    Args:
        path: The checkpoint.
        processes: The number of processes of the run.
        zero3: Whether the run divides weights.

    Raises:
        UserError: If another strategy, another number of processes or the other kind of ZeRO has written the
            checkpoint, if the optimizer was on NVMe, or if a file could run code.
    """
    if not is_deepspeed_checkpoint(path):
        raise UserError(f"checkpoint={path}: DeepSpeed has not written it; resume with the strategy that wrote it")
    _refuse_nvme(path)
    start = "or start from an export of its weights (lightning-rlhf export)"
    wrote = len(_parts(path))
    if wrote != processes:
        raise UserError(
            f"checkpoint={path}: {wrote} processes wrote it, each its share of the optimizer, and this run has "
            f"{processes}: resume with {wrote}, {start}"
        )
    check_deepspeed(path / TAG)
    if zero3 == (path / TAG / "mp_rank_00_model_states.pt").is_file():
        theirs, ours = ("ZeRO 1 or 2", "ZeRO 3") if zero3 else ("ZeRO 3", "ZeRO 1 or 2")
        raise UserError(
            f"checkpoint={path}: {theirs} wrote it, and this run uses {ours}: resume with {theirs}, {start}"
        )


def load_weights(src: Mapping[str, object], dst: nn.Module, *, unchanged: tuple[str, ...], strict: bool) -> None:
    """Sets weights and buffers; the engine calls this function.

    Args:
        src: Weights by name. Under ZeRO 3 they are empty, and each process reads its own parts elsewhere.
        dst: The module.
        unchanged: Prefixes of the names that a checkpoint need not contain.
        strict: Whether all other names must be there.

    Raises:
        UserError: If the names are not those of the module.
    """
    keys = dst.load_state_dict(src, strict=False)
    missing = [name for name in keys.missing_keys if not name.startswith(unchanged)]
    if strict and (missing or keys.unexpected_keys):
        raise UserError(
            f"the checkpoint holds another model: it lacks {missing}, and has {keys.unexpected_keys} instead"
        )


def save(checkpoint: Mapping[str, object], path: Path, engine: Any, module: LightningModule) -> None:
    """Writes a checkpoint; all processes call this together.

    Args:
        checkpoint: What Lightning has gathered.
        path: An empty folder.
        engine: The engine of DeepSpeed, which writes weights and the optimizer's state.
        module: The module that trains.
    """
    rest = {name: value for name, value in checkpoint.items() if name not in ("state_dict", "optimizer_states")}
    with left_out(module):
        engine.save_checkpoint(str(path), TAG, client_state=rest, exclude_frozen_parameters=leaves_out_frozen(module))


def load(path: Path, engine: Any, module: LightningModule, *, with_optimizer: bool) -> dict[str, Any]:
    """Sets weights and the optimizer's state from a checkpoint that `check` has accepted, and returns the rest.

    Args:
        path: The checkpoint.
        engine: The engine of DeepSpeed.
        module: The module that trains.
        with_optimizer: Whether to set the optimizer's state.

    Raises:
        UserError: If the checkpoint holds other models.
    """
    _, rest = engine.load_checkpoint(
        str(path),
        TAG,
        load_optimizer_states=with_optimizer,
        load_lr_scheduler_states=False,
        custom_load_fn=partial(load_weights, unchanged=unchanged(module), strict=module.strict_loading),
    )
    return rest


def _refuse_nvme(path: Path) -> None:
    """Refuses a state that DeepSpeed restores only in part, without the number of steps and without moments."""
    if (path / TAG / "offloaded_tensors").is_dir():
        raise UserError(
            f"checkpoint={path}: the optimizer of this run was on NVMe, and DeepSpeed reads it back only in part; "
            "start from the export that a stage writes when it is finished"
        )


def _parts(path: Path) -> list[Path]:
    return list((path / TAG).glob("*zero_pp_rank_*_optim_states.pt"))
