"""Adapter files in peft's format: adapter_config.json and adapter_model.safetensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from lightning_rlhf.checksums import check_checksums, checksums, write_checksums
from lightning_rlhf.distributed.loading import writable
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.lora import HEADS, Lora, heads, inject_config, is_of_head
from lightning_rlhf.models.names import found_from, named_from
from lightning_rlhf.saving import appearing

if TYPE_CHECKING:
    from peft import LoraConfig

WEIGHTS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"
# peft puts this before the names of weights.
_PREFIX = "base_model.model."
# The bias of a scalar model's head is saved in the metadata of the file, since peft's format has no place for it.
_BIAS = "score_bias"


def adapter_state(net: PreTrainedModel, name: str, weights: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Returns the weights of an adapter, and of a scalar model's head, by the names that peft uses in its files.

    Args:
        net: A model that contains the adapter.
        name: Name of the adapter.
        weights: All weights by the names of the model's `state_dict`; None for the weights of `net`.
    """
    from peft import get_peft_model_state_dict

    weights = dict(net.state_dict() if weights is None else weights)
    state = get_peft_model_state_dict(net, weights, adapter_name=name, save_embedding_layers=False)
    head = {key: weight for key, weight in weights.items() if is_of_head(key)}
    return {_PREFIX + key: weight for key, weight in {**state, **head}.items()}


def save_adapter(
    net: PreTrainedModel,
    name: str,
    folder: Path,
    base: str | None,
    scalar: bool,
    weights: Mapping[str, Tensor] | None = None,
    add_files: Callable[[Path], object] = lambda folder: None,
) -> Path:
    """Writes an adapter in peft's format, so that `PeftModel.from_pretrained(base_model, folder)` reads it.

    Args:
        net: A model that contains the adapter.
        name: Name of the adapter.
        folder: The folder to write.
        base: Hub name or folder of the model that the adapter belongs to. The file names a folder by its path from
            `folder`.
        scalar: Whether the adapter belongs to a scalar model, whose head is then written too.
        weights: See `adapter_state`.
        add_files: Writes further files into the folder, before it appears under its name.

    Returns:
        The folder.
    """
    from peft import LoraConfig

    state = {key: weight.detach().contiguous().cpu() for key, weight in adapter_state(net, name, weights).items()}
    trained_heads = {key.removeprefix(_PREFIX).split(".")[0] for key in state} & set(HEADS)
    bias = {_BIAS: repr(getattr(net.config, "score_bias", 0.0))} if scalar else {}
    own: Any = net.peft_config
    config = LoraConfig(
        **{
            **own[name].to_dict(),
            "base_model_name_or_path": None if base is None else named_from(base, folder),
            "task_type": "SEQ_CLS" if scalar else "CAUSAL_LM",
            "modules_to_save": sorted(trained_heads) if scalar else None,
            "inference_mode": True,
        }
    )
    with appearing(folder) as partial:
        partial.mkdir()
        config.save_pretrained(str(partial))
        save_file(state, partial / WEIGHTS, metadata={"format": "pt", **bias})
        write_checksums(partial, checksums(partial, [partial / WEIGHTS]))
        add_files(partial)
    return folder


@dataclass(frozen=True)
class SavedHead:
    """The head of a scalar model, as it is saved with its adapter."""

    weight: Tensor
    """(1, D)."""
    bias: float


def load_adapter(net: PreTrainedModel, folder: Path, name: str, expected: Lora | None = None) -> SavedHead | None:
    """Adds an adapter that `save_adapter` or peft wrote, and activates it; see `inject`.

    Args:
        net: A Hugging Face model, changed in place. A saved head replaces the head of the model if it has one.
        folder: The folder of the adapter.
        name: Name of the adapter in the model.
        expected: The kind of adapter that the folder must contain; None accepts all kinds. Only the dropout need not
            agree: it is a setting of training, and is set to the expected one.

    Returns:
        The head that is saved with the adapter, or None.

    Raises:
        UserError: If the folder contains no adapter of this model, or another kind of adapter.
    """
    from peft import set_peft_model_state_dict

    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder}: not an adapter folder: there is no {WEIGHTS} in it")
    check_checksums(folder, str(folder))
    config = _described(folder)
    _check_base(config.base_model_name_or_path, net.name_or_path or None, folder)
    saved = {key.removeprefix(_PREFIX): weight for key, weight in load_file(folder / WEIGHTS).items()}
    if expected is not None:
        _check_kind(adapter_kind(folder), expected, folder)
        _check_targets(saved, expected, folder)
    config.inference_mode, config.modules_to_save = False, None
    # An adapter of which no kind is expected is not trained.
    config.lora_dropout = 0.0 if expected is None else expected.dropout
    try:
        inject_config(net, config, name)
    except ValueError as error:
        raise UserError(f"{folder}: not an adapter of {type(net).__name__}: {error}") from error
    own = {key.removeprefix(_PREFIX) for key in adapter_state(net, name)}
    differing = [key for key in sorted(saved.keys() ^ own) if not is_of_head(key)]
    if differing:
        raise UserError(f"{folder}: not an adapter of {type(net).__name__}: they differ in {', '.join(differing[:3])}…")
    set_peft_model_state_dict(net, {k: w for k, w in saved.items() if not is_of_head(k)}, adapter_name=name)
    head = next((weight for key, weight in saved.items() if is_of_head(key)), None)
    if head is None:
        return None
    for layer in heads(net):
        with torch.no_grad(), writable(*layer.parameters()):
            layer.weight.copy_(head)
    with safe_open(folder / WEIGHTS, "pt") as file:
        return SavedHead(head, float((file.metadata() or {}).get(_BIAS, 0.0)))


def adapter_kind(folder: Path) -> Lora:
    """Returns the kind of the adapter in a folder.

    Raises:
        UserError: If the folder contains no adapter.
    """
    saved = _described(folder)
    targets = saved.target_modules
    return Lora(
        rank=saved.r,
        alpha=saved.lora_alpha,
        dropout=saved.lora_dropout,
        rslora=saved.use_rslora,
        dora=saved.use_dora,
        # A string is a pattern, or peft's "all-linear".
        target_modules=None if targets is None or isinstance(targets, str) else sorted(targets),
    )


def holds_adapter(folder: Path) -> bool:
    """Whether a folder contains the configuration of an adapter."""
    return (folder / _CONFIG).is_file()


def _described(folder: Path) -> "LoraConfig":
    """Reads the configuration through peft, which fills in what its earlier versions left out of the file."""
    from peft import LoraConfig, PeftConfig, PeftType

    if not holds_adapter(folder):
        raise UserError(f"{folder}: not an adapter folder: there is no {_CONFIG} in it")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / _CONFIG}: peft cannot read it: {error}") from error
    if not isinstance(config, LoraConfig):
        raise UserError(
            f"{folder}: an adapter of peft_type={PeftType(config.peft_type).value}; only LoRA adapters can be loaded"
        )
    if config.megatron_config is not None:
        # peft would import whatever module megatron_core names (tuners/lora/tp_layer.py).
        raise UserError(f"{folder / _CONFIG}: megatron_config is set: adapters of Megatron layers cannot be loaded")
    return config


def _check_base(base: str | None, net: str | None, folder: Path) -> None:
    """Refuses an adapter of another model: it would fit any model of the same size, but only make sense in its own."""
    named = None if base is None else found_from(base, folder)
    same = Path(named).resolve() == Path(net).resolve() if _is_folder(named) and _is_folder(net) else named == net
    if not same:
        raise UserError(
            f"{folder}: the adapter belongs to {named or 'a model with random weights'}, not to "
            f"{net or 'a model with random weights'}: set model.pretrained={named or 'null'}; if both are the same "
            f"model, write the name of yours into {_CONFIG} there"
        )


def _is_folder(name: str | None) -> TypeGuard[str]:
    return name is not None and Path(name).is_dir()


def _check_targets(saved: Mapping[str, Tensor], expected: Lora, folder: Path) -> None:
    has = sorted({key.partition(".lora_")[0].rpartition(".")[2] for key in saved if not is_of_head(key)})
    wanted = expected.target_modules
    if wanted is not None and sorted(wanted) != has:
        raise UserError(
            f"model.adapter.target_modules=[{','.join(wanted)}], but the adapter in {folder} adapts {', '.join(has)}: "
            f"set model.adapter.target_modules=[{','.join(has)}]"
        )


def _check_kind(found: Lora, expected: Lora, folder: Path) -> None:
    for setting in ("rank", "alpha", "rslora", "dora"):
        has, wanted = getattr(found, setting), getattr(expected, setting)
        if has != wanted:
            raise UserError(
                f"model.adapter.{setting}={wanted}, but the adapter in {folder} has {has}: set "
                f"model.adapter.{setting}={has}"
            )
