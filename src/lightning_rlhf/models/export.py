"""Exports models to plain Hugging Face folders, which appear only when they are complete."""

import copy
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.serving import served_otherwise
from lightning_rlhf.errors import NotFiniteError, UserError
from lightning_rlhf.models.adapters.active import adapter_layers
from lightning_rlhf.models.adapters.files import adapter_folder, save_adapter
from lightning_rlhf.models.adapters.lora import is_part_of_adapter
from lightning_rlhf.models.adapters.merging import active_adapter, is_plain, of_weights, plain_net, with_adapters
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.export_check import said, what_differs
from lightning_rlhf.models.exported_weights import (
    Fingerprints,
    in_files,
    noting_lost,
    of_model,
    of_stream,
    plain_class,
    skeleton,
)
from lightning_rlhf.models.precision import as_exported, export_in
from lightning_rlhf.models.scalar import ScalarModel, load_scalar_model
from lightning_rlhf.models.score_bias import Folding
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.models.weight_files import SHARD_BYTES, write_weights
from lightning_rlhf.saving import appearing, strict_json

log = logging.getLogger(__name__)

MANIFEST = "lightning_rlhf.json"


def export_model(
    net: torch.nn.Module,
    renderer: Renderer,
    folder: Path,
    manifest: dict[str, object],
    weights: Iterable[tuple[str, Tensor]] | None = None,
    max_shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Writes weights (safetensors), configuration, tokenizer with chat template and manifest, and reads them back.

    Configuration and generation settings name the renderer's stop set, so that `generate` of transformers ends an
    answer where it ended in training. If the tokenizer's chat template gives other ids than the renderer, which happens
    if a token crosses the end of a prompt, a warning says so.

    An adapter is merged into the weights, and is also written in peft's format to a separate folder beside this one.
    Weights that were trained in fp32 are rounded to the dtype in which the model was built. This is done weight by
    weight, and the model itself does not change.

    The folder appears in one step, after the check that the reloaded model is the same, so a run that is killed leaves
    no incomplete model.

    Args:
        net: A causal language model, or a `ScalarModel`.
        renderer: Contains the tokenizer and the ids that end an answer.
        folder: The folder to write; an existing one is replaced.
        manifest: Further JSON-like entries of the manifest.
        weights: The whole weights of a model that is divided among processes and has no adapter, as
            `distributed.phases.named_weights` streams them. None uses the weights of the model itself.
        max_shard_bytes: Largest size of a file of weights, which is also about the memory that an export takes.

    Returns:
        The folder.

    Raises:
        NotFiniteError: If a weight is NaN or infinite.
        RuntimeError: If the reloaded model has other weights than were written, gives other numbers than the one in
            memory, or lacks its adapter.
    """
    scalar = isinstance(net, ScalarModel)
    hf_net: Any = net.net if isinstance(net, ScalarModel) else net
    exported = of_model(net) if weights is None else of_stream(net, weights)
    empty, fingerprints = skeleton(hf_net, exported.dtype), Fingerprints()
    _name_special_tokens(empty, renderer)
    with appearing(folder) as partial:
        partial.mkdir()
        # This must come before the weights, because it removes those of an earlier save.
        empty.save_pretrained(partial, state_dict={})
        lost = [] if math.isfinite(exported.bias) else ["bias"]
        stream = noting_lost(exported.stream, lost)
        if scalar:
            folding = Folding(ScalarModel(empty), exported.bias)
            stream = folding.applied(stream)
        write_weights(partial, in_files(hf_net, empty, fingerprints.taken(stream)), max_shard_bytes)
        if lost:
            # The comparison below cannot detect NaN.
            raise NotFiniteError(
                f"export to {folder}: {len(lost)} weights such as {lost[0]} are not finite: nothing is written"
            )
        if scalar:
            hf_net.config.score_bias, empty.config.score_bias = exported.bias, folding.left
            empty.config.save_pretrained(partial)
            manifest = {"score_bias": folding.left, **manifest}
        renderer.tokenizer.save_pretrained(partial)
        kind = "reward_model" if scalar else "causal_lm"
        about = {"kind": kind, "stop_ids": list(renderer.stop_ids), **manifest}
        (partial / MANIFEST).write_text(strict_json(about, indent=2) + "\n")
        problem = _problem(net, partial, exported.dtype, fingerprints, whole=weights is None)
        if problem is not None:
            raise RuntimeError(f"export to {folder}: the reloaded model {problem}")
        served = served_otherwise(renderer, ModelSource(pretrained=str(partial)).load_tokenizer())
        if served is not None:
            log.warning(
                "export to %s: apply_chat_template(tokenize=True) of its tokenizer makes other prompts than training: "
                "%s; set another data.template, or serve it with the ids of Renderer.prompt",
                folder,
                served,
            )
    name = active_adapter(hf_net)
    if name is not None:
        save_adapter(hf_net, name, adapter_folder(folder), hf_net.name_or_path or None, scalar)
    return folder


def _problem(
    net: torch.nn.Module, folder: Path, dtype: torch.dtype, fingerprints: Fingerprints, *, whole: bool
) -> str | None:
    """Returns what is wrong with an export; None if it is right.

    Args:
        net: The exported model.
        folder: The export.
        dtype: The dtype of its weights.
        fingerprints: The checksums of the written weights.
        whole: Whether this process can call the model alone.
    """
    hf_net: Any = net.net if isinstance(net, ScalarModel) else net
    # In the dtype of the files, transformers maps the files into memory and allocates none of its own.
    computed = hf_net.dtype if whole else dtype
    reloaded = _reload(folder, computed, scalar=isinstance(net, ScalarModel))
    differing = fingerprints.differing(reloaded.net if isinstance(net, ScalarModel) else reloaded)
    if differing:
        return f"has {len(differing)} other weights than were written, such as {differing[0]}"
    if not whole:
        return None
    answers = said(reloaded.to(next(net.parameters()).device))
    return what_differs(net, answers, None if is_plain(hf_net) and dtype == computed else dtype)


def _name_special_tokens(net: PreTrainedModel, renderer: Renderer) -> None:
    """Sets the special tokens in the configuration, and in the generation settings if the model has some."""
    stops, pad = list(renderer.stop_ids), renderer.tokenizer.pad_token_id
    settings: list[Any] = [net.config, *([net.generation_config] if net.can_generate() else [])]
    for setting in settings:
        setting.bos_token_id = renderer.tokenizer.bos_token_id
        setting.eos_token_id = stops[0] if len(stops) == 1 else stops
        # PyTorch does not build an embedding if PAD lies outside of it.
        if pad is not None and pad < net.config.get_text_config().vocab_size:
            setting.pad_token_id = pad


def _reload(folder: Path, dtype: torch.dtype, *, scalar: bool) -> Any:
    source = ModelSource(pretrained=str(folder), dtype=str(dtype).removeprefix("torch."))
    return load_scalar_model(source, "trained") if scalar else load_causal_lm(source)


def empty_net(source: ModelSource, *, scalar: bool) -> torch.nn.Module:
    """Builds a model on the meta device, with its class and configuration but without weights.

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
    """Builds a model on the CPU with the adapter of a checkpoint.

    Args:
        source: Where the frozen weights come from.
        weights: The trained weights.
        scalar: Whether the model is a `ScalarModel`.
        dtype: The dtype of the weights into which the adapter is merged; None keeps the adapter beside the weights.

    Raises:
        UserError: If the adapter belongs to another model.
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
    """Builds a whole copy of a model on the CPU, with the same adapters.

    Args:
        net: A causal language model or a `ScalarModel`, on the meta device or divided among processes.
        weights: All its weights and buffers, by their names in its `state_dict`.
    """
    hf_net: Any = net.net if isinstance(net, ScalarModel) else net
    kind = plain_class(hf_net)
    bias = weights.pop("bias") if isinstance(net, ScalarModel) else None
    weights = as_exported(hf_net, {name.removeprefix("net."): weight for name, weight in weights.items()})
    plain: Any = (
        with_adapters(kind, hf_net, weights) if adapter_layers(hf_net) else of_weights(kind, hf_net.config, weights)
    )
    if bias is None:
        plain.generation_config = copy.deepcopy(hf_net.generation_config)
        return plain
    plain.config.score_bias = float(bias)
    return ScalarModel(plain)
