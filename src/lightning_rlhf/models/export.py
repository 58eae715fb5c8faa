"""Exports: plain Hugging Face folders, whole or not there at all."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerBase

from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.forward import position_arguments
from lightning_rlhf.models.scalar import ScalarModel, load_scalar_model
from lightning_rlhf.models.source import ModelSource

MANIFEST = "lightning_rlhf.json"


def export_model(
    net: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path, manifest: dict[str, Any]
) -> Path:
    """Writes weights (safetensors), configuration, tokenizer with chat template and manifest, and reads them back.

    The folder appears in one step, after the reloaded net gave the same numbers: a run that is killed leaves no
    half model.

    Args:
        net: A causal language model, or a `ScalarModel`.
        tokenizer: Its tokenizer.
        folder: Where to; what is there is replaced.
        manifest: What to remember beside the weights, JSON-like.

    Returns:
        The folder.

    Raises:
        RuntimeError: If the reloaded net gives other numbers than the one in memory.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    hf_net: Any = net.net if isinstance(net, ScalarModel) else net
    if isinstance(net, ScalarModel):
        hf_net.config.score_bias = float(net.bias.detach())
    hf_net.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    kind = "reward_model" if isinstance(net, ScalarModel) else "causal_lm"
    (partial / MANIFEST).write_text(json.dumps({"kind": kind, **manifest}, indent=2) + "\n")
    difference = _difference_after_reload(net, partial, str(hf_net.dtype).removeprefix("torch."))
    if difference > 1e-4:
        raise RuntimeError(f"export to {folder}: the reloaded model differs by {difference:.2e} from the one in memory")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def empty_net(source: ModelSource, *, scalar: bool) -> torch.nn.Module:
    """A net on the meta device: its class and configuration, without weights.

    Args:
        source: Where the model comes from.
        scalar: Whether it is a `ScalarModel`.
    """
    config = source.hf_config()
    auto = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
    if scalar:
        config.num_labels = 1
    with torch.device("meta"):
        net = auto.from_config(config, dtype=source.torch_dtype, trust_remote_code=source.trust_remote_code)
        return ScalarModel(net) if scalar else net


def rebuilt(net: torch.nn.Module, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A plain net on the CPU, like one whose weights are elsewhere.

    Args:
        net: A causal language model, or a `ScalarModel`; on the meta device, or spread over processes.
        weights: All its weights and buffers, by the names that its `state_dict` has.
    """
    hf_net: Any = net.net if isinstance(net, ScalarModel) else net
    # torch's fully_shard gives a net a class of its own, made from the net's.
    kind: Any = next(cls for cls in type(hf_net).__mro__ if not cls.__module__.startswith("torch."))
    bias = weights.pop("bias") if isinstance(net, ScalarModel) else None
    plain = kind.from_pretrained(
        None,
        config=hf_net.config,
        state_dict={name.removeprefix("net."): weight for name, weight in weights.items()},
        dtype=next(iter(weights.values())).dtype,
    )
    if bias is None:
        return plain
    plain.config.score_bias = float(bias)
    return ScalarModel(plain)


@torch.no_grad()
def _difference_after_reload(net: torch.nn.Module, folder: Path, dtype: str) -> float:
    """Largest difference of logits or scores between a net and its export, on a fixed row of ids."""
    source = ModelSource(pretrained=str(folder), dtype=dtype)
    reloaded: Any = load_scalar_model(source, "trained") if isinstance(net, ScalarModel) else load_causal_lm(source)
    device = next(net.parameters()).device
    ids = torch.arange(2, 18, device=device)[None]
    mask = torch.ones_like(ids, dtype=torch.bool)
    was_training = net.training
    net.eval()
    reloaded.to(device).eval()
    if isinstance(net, ScalarModel):
        before, after = net(ids, mask), reloaded(ids, mask)
    else:
        arguments = position_arguments(net, mask)
        before, after = net(ids, **arguments).logits, reloaded(ids, **arguments).logits
    net.train(was_training)
    return float((before.float() - after.float()).abs().max())
