"""Exports: plain Hugging Face folders, whole or not there at all."""

import copy
import json
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
from lightning_rlhf.errors import UserError
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
from lightning_rlhf.saving import appearing

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
    answer where it ended in training. If the tokenizer's chat template gives other ids than the renderer does, which is
    so where a token reaches across the end of a prompt, a warning says so.

    An adapter is merged into the weights, and is written in peft's format to a folder of its own beside this one;
    weights that were held in fp32 to be trained are rounded to the dtype that the model was built in. All that is done
    weight by weight, and the model stays as it is.

    The folder appears in one step, after the reloaded model was found to be the same: a run that is killed leaves no
    half model.

    Args:
        net: A causal language model, or a `ScalarModel`.
        renderer: Has its tokenizer, and the ids that end an answer.
        folder: Where to; what is there is replaced.
        manifest: What to remember beside the weights, JSON-like.
        weights: The whole weights of a model that is divided among processes and has no adapter, as
            `distributed.phases.named_weights` streams them. None takes those of the model itself.
        max_shard_bytes: Largest size of a file of weights, and about the memory that an export takes.

    Returns:
        The folder.

    Raises:
        UserError: If a weight is NaN or infinite.
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
        # Before there are weights, since it removes those of another save.
        empty.save_pretrained(partial, state_dict={})
        lost = [] if math.isfinite(exported.bias) else ["bias"]
        stream = noting_lost(exported.stream, lost)
        if scalar:
            folding = Folding(ScalarModel(empty), exported.bias)
            stream = folding.applied(stream)
        write_weights(partial, in_files(hf_net, empty, fingerprints.taken(stream)), max_shard_bytes)
        if lost:
            # Of NaN the comparison below says nothing.
            raise UserError(
                f"export to {folder}: {len(lost)} weights such as {lost[0]} are not finite: nothing is written"
            )
        if scalar:
            hf_net.config.score_bias, empty.config.score_bias = exported.bias, folding.left
            empty.config.save_pretrained(partial)
            manifest = {"score_bias": folding.left, **manifest}
        renderer.tokenizer.save_pretrained(partial)
        kind = "reward_model" if scalar else "causal_lm"
        about = {"kind": kind, "stop_ids": list(renderer.stop_ids), **manifest}
        (partial / MANIFEST).write_text(json.dumps(about, indent=2) + "\n")
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
    """What is wrong with an export, if anything is.

    Args:
        net: What was exported.
        folder: The export.
        dtype: Of its weights.
        fingerprints: Of the weights that were written.
        whole: Whether this process can call the model alone.
    """
    hf_net: Any = net.net if isinstance(net, ScalarModel) else net
    # In the dtype of its files transformers maps them into memory, and takes none of its own.
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
