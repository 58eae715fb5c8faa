"""Exports models to plain Hugging Face folders, which appear only when they are complete."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lightning_rlhf.checksums import checksums, write_checksums
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.serving import served_otherwise
from lightning_rlhf.errors import NotFiniteError
from lightning_rlhf.models.adapters.files import save_adapter
from lightning_rlhf.models.adapters.merging import active_adapter, is_plain, is_quantized
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.described import Description
from lightning_rlhf.models.export_check import said, what_differs
from lightning_rlhf.models.export_trial import (
    adapter_ends_otherwise,
    adapter_scores_otherwise,
    ends_otherwise,
    score_ending,
    scores_otherwise,
)
from lightning_rlhf.models.exported_weights import (
    ExportedWeights,
    Fingerprints,
    in_files,
    noting_lost,
    of_model,
    of_stream,
    skeleton,
)
from lightning_rlhf.models.generation_settings import name_score, name_special_tokens
from lightning_rlhf.models.names import adapter_folder
from lightning_rlhf.models.pretrained import reason
from lightning_rlhf.models.scalar import ScalarModel, load_scalar_model
from lightning_rlhf.models.score_bias import Folding
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.models.usage import Usage
from lightning_rlhf.models.weight_files import SHARD_BYTES, write_weights
from lightning_rlhf.saving import appearing

log = logging.getLogger(__name__)


def export_model(
    net: torch.nn.Module,
    renderer: Renderer,
    folder: Path,
    manifest: Mapping[str, object],
    weights: Iterable[tuple[str, Tensor]] | None = None,
    max_shard_bytes: int = SHARD_BYTES,
    sampling: Mapping[str, object] | None = None,
) -> Path:
    """Writes weights (safetensors), configuration, tokenizer with chat template and manifest, and tries them.

    Configuration and generation settings name the renderer's stop set, so that `generate` of transformers ends an
    answer where it ended in training. Before the folder appears, it is read back: the weights must be those of the
    model, and plain transformers must generate through the chat template and stop where training stopped, or give the
    score of the reward model. If the tokenizer's chat template gives other ids than the renderer, which happens if a
    token crosses the end of a prompt, a warning says so.

    An adapter is merged into the weights, and is also written in peft's format to a separate folder beside this one,
    with the same tokenizer and generation settings. peft and plain transformers must stop there as well, or give the
    same score, unless the base model was quantized, which they read without rounding.
    Weights that were trained in fp32 are rounded to the dtype in which the model was built. This is done weight by
    weight, and the model itself does not change.

    The folder appears in one step, with checksums, after these checks: a run that is killed leaves no incomplete model.

    Args:
        net: A causal language model, or a `ScalarModel`.
        renderer: Contains the tokenizer and the ids that end an answer.
        folder: The folder to write; an existing one is replaced.
        manifest: Further JSON-like entries of the manifest; the model card shows `training`, `TrainingRecord`s.
        weights: The whole weights of a model that is divided among processes and has no adapter, as
            `distributed.phases.named_weights` streams them. None uses the weights of the model itself.
        max_shard_bytes: Largest size of a file of weights, which is also about the memory that an export takes.
        sampling: The distribution that a language model was trained to sample from, by the names that transformers'
            `GenerationConfig` has for its settings; None keeps the settings of the model.

    Returns:
        The folder.

    Raises:
        NotFiniteError: If a weight is NaN or infinite.
        RuntimeError: If the reloaded model has other weights than were written, gives other numbers than the one in
            memory, lacks its adapter, or ends answers elsewhere in plain transformers.
    """
    scalar = isinstance(net, ScalarModel)
    hf_net: Any = net.net if isinstance(net, ScalarModel) else net
    name, base = active_adapter(hf_net), hf_net.name_or_path or None
    exported = of_model(net) if weights is None else of_stream(net, weights)
    empty, fingerprints = skeleton(hf_net, exported.dtype), Fingerprints()
    name_special_tokens(empty, renderer, sampling)
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
        write_checksums(partial, checksums(partial, partial.glob("*.safetensors")))
        if lost:
            # The comparison below cannot detect NaN.
            raise NotFiniteError(
                f"export to {folder}: {len(lost)} weights such as {lost[0]} are not finite: nothing is written"
            )
        if scalar:
            hf_net.config.score_bias, empty.config.score_bias = exported.bias, folding.left
            name_score(empty.config)
            empty.config.save_pretrained(partial)
            manifest = {"score_bias": folding.left, **manifest}
        renderer.tokenizer.save_pretrained(partial)
        about = _description(empty, renderer, manifest, base, sampling, exported.bias)
        about.write(partial, folder)
        problem = _problem(net, partial, renderer, exported.dtype, fingerprints, whole=weights is None)
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
    if name is not None:

        def add_files(partial: Path) -> None:
            renderer.tokenizer.save_pretrained(partial)
            about.write_for_adapter(partial, adapter_folder(folder))
            if not scalar:
                empty.generation_config.save_pretrained(partial)
                _try_adapter(folder, base, lambda base: adapter_ends_otherwise(partial, base, renderer))
            elif not is_quantized(hf_net):
                _try_adapter(folder, base, lambda base: _score_problem(partial, folder, base, renderer, exported))

        save_adapter(hf_net, name, adapter_folder(folder), base, scalar, add_files=add_files)
    return folder


def _score_problem(partial: Path, folder: Path, base: str, renderer: Renderer, exported: ExportedWeights) -> str | None:
    """Returns how an adapter on its base model scores otherwise than the merged model in a folder."""
    merged = _reload(folder, exported.dtype, scalar=True)
    return adapter_scores_otherwise(partial, base, renderer, merged, exported.dtype, exported.bias)


def _try_adapter(folder: Path, base: str | None, differs: Callable[[str], str | None]) -> None:
    """Checks that an adapter on its base model does as the merged model, if there is such a base to load.

    Args:
        folder: The folder of the merged model.
        base: Hub name or folder of the base model.
        differs: Describes how the adapter on a base model differs from the training.
    """
    if base is None:
        return
    folder = adapter_folder(folder)
    try:
        problem = differs(base)
    except (OSError, ImportError) as error:
        # A GGUF file, for example, or a hub that cannot be reached now. The merged model has passed the same check.
        log.warning("export to %s: the adapter was not tried on its base model: %s", folder, reason(error))
        return
    if problem is not None:
        raise RuntimeError(f"export to {folder}: the adapter on its base model {problem}")


def _description(
    empty: PreTrainedModel,
    renderer: Renderer,
    manifest: Mapping[str, object],
    base: str | None,
    sampling: Mapping[str, object] | None,
    bias: float,
) -> Description:
    """Collects what the export of a model, given as its skeleton and the bias of its score, tells about itself."""
    reward_model = not empty.can_generate()
    ending = score_ending(renderer) if reward_model else None
    limit = (sampling or {}).get("max_new_tokens")
    usage = Usage(
        reward_model=reward_model,
        max_new_tokens=limit if isinstance(limit, int) else 256,
        ending=ending or "",
        score_bias=getattr(empty.config, "score_bias", 0.0),
    )
    return Description(
        manifest={
            "kind": "reward_model" if reward_model else "causal_lm",
            "stop_ids": list(renderer.stop_ids),
            **manifest,
        },
        base=base,
        usage=usage,
        adapter_bias=bias,
        sampled=sampling is not None,
        scores_texts=not reward_model or ending is not None,
        pads=empty.config.pad_token_id is not None,
    )


def _problem(
    net: torch.nn.Module,
    folder: Path,
    renderer: Renderer,
    dtype: torch.dtype,
    fingerprints: Fingerprints,
    *,
    whole: bool,
) -> str | None:
    """Returns what is wrong with an export; None if it is right.

    Args:
        net: The exported model.
        folder: The export.
        renderer: The renderer of the training.
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
    otherwise = (
        scores_otherwise(folder, renderer, reloaded, dtype)
        if isinstance(reloaded, ScalarModel)
        else ends_otherwise(folder, renderer)
    )
    if otherwise is not None or not whole:
        return otherwise
    answers = said(reloaded.to(next(net.parameters()).device))
    return what_differs(net, answers, None if is_plain(hf_net) and dtype == computed else dtype)


def _reload(folder: Path, dtype: torch.dtype, *, scalar: bool) -> Any:
    source = ModelSource(pretrained=str(folder), dtype=str(dtype).removeprefix("torch."))
    return load_scalar_model(source, "trained") if scalar else load_causal_lm(source)
