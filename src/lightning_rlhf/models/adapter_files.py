"""Files of adapters, as peft has them: adapter_config.json and adapter_model.safetensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters import HEADS, inject_config

WEIGHTS = "adapter_model.safetensors"
# What peft puts before the names of weights.
_PREFIX = "base_model.model."


def adapter_state(net: PreTrainedModel, name: str, weights: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The weights of an adapter, and of a scalar model's head, by the names that peft gives them in its files.

    Args:
        net: With the adapter in it.
        name: Of the adapter.
        weights: All weights by the names of the net's `state_dict`; None takes those of the net.
    """
    from peft import get_peft_model_state_dict

    weights = dict(net.state_dict() if weights is None else weights)
    state = get_peft_model_state_dict(net, weights, adapter_name=name, save_embedding_layers=False)
    head = {key: weight for key, weight in weights.items() if key.split(".")[0] in HEADS}
    return {_PREFIX + key: weight for key, weight in {**state, **head}.items()}


def save_adapter(
    net: PreTrainedModel,
    name: str,
    folder: Path,
    base: str | None,
    scalar: bool,
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Writes an adapter as peft does: `PeftModel.from_pretrained(base_model, folder)` reads it.

    Args:
        net: With the adapter in it.
        name: Of the adapter.
        folder: Where to.
        base: Name or folder of the model that it belongs to, for the file.
        scalar: Whether it belongs to a scalar model, whose head is then written too.
        weights: See `adapter_state`.

    Returns:
        The folder.
    """
    from peft import LoraConfig

    state = {key: weight.detach().contiguous().cpu() for key, weight in adapter_state(net, name, weights).items()}
    trained_heads = {key.removeprefix(_PREFIX).split(".")[0] for key in state} & set(HEADS)
    own: Any = net.peft_config
    config = LoraConfig(
        **{
            **own[name].to_dict(),
            "base_model_name_or_path": base,
            "task_type": "SEQ_CLS" if scalar else "CAUSAL_LM",
            "modules_to_save": sorted(trained_heads) if scalar else None,
            "inference_mode": True,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def load_adapter(net: PreTrainedModel, folder: Path, name: str) -> None:
    """Adds an adapter that `save_adapter` or peft wrote; see `inject`.

    Raises:
        UserError: If the folder holds no adapter of this net.
    """
    from peft import LoraConfig, set_peft_model_state_dict

    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder}: not the folder of an adapter: there is no {WEIGHTS} in it")
    config: Any = LoraConfig.from_pretrained(str(folder))
    config.inference_mode, config.modules_to_save = False, None
    try:
        inject_config(net, config, name)
    except ValueError as error:
        raise UserError(f"{folder}: not an adapter of {type(net).__name__}: {error}") from error
    saved = load_file(folder / WEIGHTS)
    differing = saved.keys() ^ adapter_state(net, name).keys()
    if differing:
        raise UserError(
            f"{folder}: not an adapter of {type(net).__name__}: they differ in {', '.join(sorted(differing)[:3])}…"
        )
    state = {key.removeprefix(_PREFIX): weight for key, weight in saved.items()}
    set_peft_model_state_dict(net, state, adapter_name=name)
    net.load_state_dict({key: weight for key, weight in state.items() if key.split(".")[0] in HEADS}, strict=False)
