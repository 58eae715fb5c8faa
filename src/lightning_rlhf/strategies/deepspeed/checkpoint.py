"""The checkpoint of a DeepSpeed strategy: a folder that DeepSpeed's engine writes, each process its own part.

last.ckpt/
  latest                           names the folder beside it
  checkpoint/*_model_states.pt     loops, callbacks, schedulers, data, and weights of ZeRO 1 and 2: one file, or under
                                   ZeRO 3 one of each process
  checkpoint/*_optim_states.pt     of each process: its part of the fp32 weights and of the optimizer's state
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_rlhf.errors import UserError, require
from lightning_rlhf.strategies.pickle_checks import check_deepspeed

TAG = "checkpoint"


def is_deepspeed_checkpoint(path: Path) -> bool:
    """Whether it is such a folder."""
    return (path / "latest").is_file() and bool(_parts(path))


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Whole weights in fp32 by the names that the module has, on the CPU, without the processes that wrote them.

    Args:
        checkpoint: The folder.

    Raises:
        UserError: If DeepSpeed is not installed, the optimizer was on NVMe, or a file could run code.
    """
    require("deepspeed", "deepspeed", f"checkpoint={checkpoint}, which DeepSpeed has written,")
    _refuse_nvme(checkpoint)
    check_deepspeed(checkpoint / TAG)
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    # It tells of each step in lines that nobody can switch off.
    with redirect_stdout(StringIO()):
        weights = dict(get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), TAG))
    whole = checkpoint / TAG / "mp_rank_00_model_states.pt"
    if whole.is_file():
        # Frozen weights under ZeRO 1 are left out there (engine.py, `_save_checkpoint`: from ZeRO 2 on).
        weights = {**torch.load(whole, map_location="cpu", weights_only=True, mmap=True)["module"], **weights}
    return weights


def unchanged(module: LightningModule) -> tuple[str, ...]:
    """Prefixes of the weights that need not be in a checkpoint."""
    return getattr(module, "unchanged", tuple)()


@contextmanager
def left_out(module: LightningModule) -> Iterator[None]:
    """Leaves weights that stay as they were built out of the module's state for a while.

    The engine itself leaves frozen ones out by their first name, and a tied weight has two.
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
    """Whether a checkpoint has no frozen weights: the engine writes all of them or none."""
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    return all(name.startswith(unchanged(module)) for name in frozen)


def check(path: Path, *, processes: int, zero3: bool) -> None:
    """Checks that a run can go on from a checkpoint.

    Args:
        path: The checkpoint.
        processes: Of the run.
        zero3: Whether the run spreads weights.

    Raises:
        UserError: If another strategy, another number of processes or the other kind of ZeRO has written it, or the
            optimizer was on NVMe; or if a file could run code.
    """
    if not is_deepspeed_checkpoint(path):
        raise UserError(f"checkpoint={path}: DeepSpeed has not written it; go on with the strategy that has")
    _refuse_nvme(path)
    start = "or start from an export of its weights (lightning-rlhf export)"
    wrote = len(_parts(path))
    if wrote != processes:
        raise UserError(
            f"checkpoint={path}: {wrote} processes wrote it, each its share of the optimizer, and this run has "
            f"{processes}: go on with {wrote}, {start}"
        )
    check_deepspeed(path / TAG)
    if zero3 == (path / TAG / "mp_rank_00_model_states.pt").is_file():
        theirs, ours = ("ZeRO 1 or 2", "ZeRO 3") if zero3 else ("ZeRO 3", "ZeRO 1 or 2")
        raise UserError(f"checkpoint={path}: {theirs} wrote it, and this run is {ours}: go on with {theirs}, {start}")


def load_weights(src: Mapping[str, object], dst: nn.Module, *, unchanged: tuple[str, ...], strict: bool) -> None:
    """Sets weights and buffers; the engine calls it.

    Args:
        src: By name; under ZeRO 3 weights are empty, and come from the processes' own parts.
        dst: The module.
        unchanged: Prefixes of names that a checkpoint need not hold.
        strict: Demand all others.

    Raises:
        UserError: If the names are not those of the module.
    """
    keys = dst.load_state_dict(src, strict=False)
    missing = [name for name in keys.missing_keys if not name.startswith(unchanged)]
    if strict and (missing or keys.unexpected_keys):
        raise UserError(f"the checkpoint holds another net: it lacks {missing}, and has {keys.unexpected_keys} instead")


def _refuse_nvme(path: Path) -> None:
    """DeepSpeed restores only some of such a state: not the number of steps, nor that there are moments."""
    if (path / TAG / "offloaded_tensors").is_dir():
        raise UserError(
            f"checkpoint={path}: of a run with its optimizer on NVMe, which DeepSpeed does not read back whole; start "
            "from the export that a stage leaves when it is finished"
        )


def _parts(path: Path) -> list[Path]:
    return list((path / TAG).glob("*zero_pp_rank_*_optim_states.pt"))
