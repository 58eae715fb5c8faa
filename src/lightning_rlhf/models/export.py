"""Exports: plain Hugging Face folders, whole or not there at all."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.serving import served_otherwise
from lightning_rlhf.distributed.half_precision import cast_weights
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.active import adapter_layers
from lightning_rlhf.models.adapters.files import adapter_folder, save_adapter
from lightning_rlhf.models.adapters.lora import is_part_of_adapter
from lightning_rlhf.models.adapters.merging import active_adapter, is_plain, of_weights, plain_net, with_adapters
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.export_check import said, what_differs
from lightning_rlhf.models.precision import as_exported, export_in, exported_dtype
from lightning_rlhf.models.scalar import ScalarModel, load_scalar_model
from lightning_rlhf.models.score_bias import folded
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.saving import flush, partial_of, put, remove

log = logging.getLogger(__name__)

MANIFEST = "lightning_rlhf.json"


def export_model(net: torch.nn.Module, renderer: Renderer, folder: Path, manifest: dict[str, Any]) -> Path:
    """Writes weights (safetensors), configuration, tokenizer with chat template and manifest, and reads them back.

    Configuration and generation settings name the renderer's stop set, so that `generate` of transformers ends an
    answer where it ended in training. If the tokenizer's chat template gives other ids than the renderer does, which is
    so where a token reaches across the end of a prompt, a warning says so.

    An adapter is merged into the weights, and is written in peft's format to a folder of its own beside this one;
    weights that were held in fp32 to be trained are rounded to the dtype that the net was built in. The net stays as it
    is.

    The folder appears in one step, after the reloaded net gave the same numbers: a run that is killed leaves no
    half model.

    Args:
        net: A causal language model, or a `ScalarModel`.
        renderer: Has its tokenizer, and the ids that end an answer.
        folder: Where to; what is there is replaced.
        manifest: What to remember beside the weights, JSON-like.

    Returns:
        The folder.

    Raises:
        UserError: If a weight is NaN or infinite.
        RuntimeError: If the reloaded net gives other numbers than the one in memory, or lacks its adapter.
    """
    # Of NaN the comparison below says nothing.
    lost = [name for name, weight in net.named_parameters() if not weight.isfinite().all()]
    if lost:
        raise UserError(f"export to {folder}: {len(lost)} weights such as {lost[0]} are not finite: nothing is written")
    partial = partial_of(folder)
    remove(partial)
    partial.mkdir(parents=True)
    scalar = isinstance(net, ScalarModel)
    hf_net: Any = net.net if isinstance(net, ScalarModel) else net
    if isinstance(net, ScalarModel):
        hf_net.config.score_bias = float(net.bias.detach())
    dtype, computed = exported_dtype(hf_net), hf_net.dtype
    merged = hf_net if is_plain(hf_net) and dtype == computed else plain_net(hf_net, dtype)
    _name_special_tokens(merged, renderer)
    if scalar:
        weights, left = folded(ScalarModel(merged))
        bias, merged.config.score_bias = merged.config.score_bias, left
        merged.save_pretrained(partial, state_dict=weights)
        merged.config.score_bias = bias
        manifest = {"score_bias": left, **manifest}
    else:
        merged.save_pretrained(partial)
    renderer.tokenizer.save_pretrained(partial)
    kind = "reward_model" if scalar else "causal_lm"
    said_of_it = {"kind": kind, "stop_ids": list(renderer.stop_ids), **manifest}
    (partial / MANIFEST).write_text(json.dumps(said_of_it, indent=2) + "\n")
    device = next(net.parameters()).device
    said_merged = None
    if merged is not hf_net:
        module: torch.nn.Module = ScalarModel(merged) if scalar else merged
        # In the dtype of the trained ones: what is to be seen is the rounding of the weights, not that of the passes.
        said_merged = said(cast_weights(module, computed).to(device))
        del module
    # Before another whole net is there.
    del merged
    problem = what_differs(net, said_merged, said(_reload(partial, computed, scalar=scalar).to(device)), dtype)
    if problem is not None:
        raise RuntimeError(f"export to {folder}: the reloaded model {problem}")
    served = served_otherwise(renderer, ModelSource(pretrained=str(partial)).load_tokenizer())
    if served is not None:
        log.warning(
            "export to %s: apply_chat_template(tokenize=True) of its tokenizer makes other prompts than training: %s; "
            "set another data.template, or serve it with the ids of Renderer.prompt",
            folder,
            served,
        )
    flush(partial)
    put(partial, folder)
    name = active_adapter(hf_net)
    if name is not None:
        save_adapter(hf_net, name, adapter_folder(folder), hf_net.name_or_path or None, scalar)
    return folder


def _name_special_tokens(net: PreTrainedModel, renderer: Renderer) -> None:
    """Lets the configuration, and the generation settings of a net that has some, name the tokens of the renderer."""
    stops, pad = list(renderer.stop_ids), renderer.tokenizer.pad_token_id
    settings: list[Any] = [net.config, *([net.generation_config] if net.can_generate() else [])]
    for setting in settings:
        setting.bos_token_id = renderer.tokenizer.bos_token_id
        setting.eos_token_id = stops[0] if len(stops) == 1 else stops
        # PyTorch builds no embedding whose PAD it cannot hold.
        if pad is not None and pad < net.config.get_text_config().vocab_size:
            setting.pad_token_id = pad


def _reload(folder: Path, dtype: torch.dtype, *, scalar: bool) -> Any:
    source = ModelSource(pretrained=str(folder), dtype=str(dtype).removeprefix("torch."))
    return load_scalar_model(source, "trained") if scalar else load_causal_lm(source)


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
        export_in(net, source.torch_dtype)
        return ScalarModel(net) if scalar else net


def adapted(
    source: ModelSource, weights: dict[str, torch.Tensor], *, scalar: bool, dtype: torch.dtype | None
) -> torch.nn.Module:
    """A net with the adapter that a checkpoint holds, on the CPU.

    Args:
        source: Where the weights come from that were not trained.
        weights: Those that were.
        scalar: Whether it is a `ScalarModel`.
        dtype: Merge the adapter into weights of this type; None leaves it beside them.

    Raises:
        UserError: If the adapter is of another net.
    """
    net: Any = load_scalar_model(source, "normal") if scalar else load_causal_lm(source)
    result = net.load_state_dict(weights, strict=False)
    differing = [*result.unexpected_keys, *(name for name in result.missing_keys if is_part_of_adapter(name))]
    if differing:
        raise UserError(f"the checkpoint is of another net: they differ in {', '.join(differing[:3])}…")
    if dtype is None:
        return net
    plain: Any = plain_net(net.net if scalar else net, dtype)
    if not scalar:
        return plain
    plain.config.score_bias = float(net.bias.detach())
    return ScalarModel(plain)


def rebuilt(net: torch.nn.Module, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A net on the CPU, like one whose weights are elsewhere, and with the same adapters.

    Args:
        net: A causal language model, or a `ScalarModel`; on the meta device, or spread over processes.
        weights: All its weights and buffers, by the names that its `state_dict` has.
    """
    hf_net: Any = net.net if isinstance(net, ScalarModel) else net
    # torch's fully_shard gives a net a class of its own, made from the net's.
    kind: Any = next(cls for cls in type(hf_net).__mro__ if not cls.__module__.startswith("torch."))
    bias = weights.pop("bias") if isinstance(net, ScalarModel) else None
    weights = as_exported(hf_net, {name.removeprefix("net."): weight for name, weight in weights.items()})
    plain: Any = (
        with_adapters(kind, hf_net, weights) if adapter_layers(hf_net) else of_weights(kind, hf_net.config, weights)
    )
    if bias is None:
        return plain
    plain.config.score_bias = float(bias)
    return ScalarModel(plain)
