"""Exports a checkpoint of any strategy as a plain Hugging Face folder, without a GPU."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from lightning_rlhf.assembly.export_sampling import sampling_settings
from lightning_rlhf.assembly.library_messages import silence_libraries
from lightning_rlhf.assembly.renderer import load_renderer
from lightning_rlhf.assembly.run_files import read_record, read_settings
from lightning_rlhf.callbacks.run_record import versions
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.lora import ADAPTER, is_part_of_adapter
from lightning_rlhf.models.export import export_model
from lightning_rlhf.models.rebuilding import adapted, check_shapes_of, empty_net, rebuilt
from lightning_rlhf.models.source import DTYPES, ModelSource
from lightning_rlhf.report.training import training_records
from lightning_rlhf.saving import write_json
from lightning_rlhf.stages import STAGES, StageRecord
from lightning_rlhf.strategies.checkpoint_weights import read_weights


def export(checkpoint: str, output_dir: str | None, dtype: str | None, trust_remote_code: bool = False) -> Path:
    """Exports the model that a stage trained. Neither the checkpoint nor the settings next to it need be trusted.

    Args:
        checkpoint: File or folder of a checkpoint that a run has saved.
        output_dir: Folder in which the model is written; None means `export/` in the folder of the stage.
        dtype: The dtype of the written weights; None means `model.dtype`, or that of the checkpoint if it has fewer
            digits.
        trust_remote_code: Whether to run Python code that comes with the model, if the settings of the run allow it.

    Returns:
        The folder of the model, which also contains `result.json`.

    Raises:
        UserError: If the checkpoint or the settings of its run do not exist, or the settings name code that would be
            run.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"dtype={dtype}: expected one of {', '.join(DTYPES)}, or null")
    silence_libraries()
    path = Path(checkpoint).expanduser()
    if not path.exists():
        raise UserError(f"checkpoint={checkpoint}: no such file or folder ({path.absolute()})")
    run = path.absolute().parent.parent
    config, record = _settings(run, checkpoint, trust_remote_code)
    folder = Path(output_dir).expanduser() if output_dir else run / "export"
    net, renderer = _net(config, record, path, None if dtype is None else DTYPES[dtype])
    rows: Any = read_record(run / "result.json").get("rows", {})
    manifest = {
        "stage": record.name,
        "checkpoint": path.name,
        "training": training_records(run, record.name, rows if isinstance(rows, dict) else {}),
    }
    export_model(net, renderer, folder, manifest, sampling=sampling_settings(config, record))
    result = {"stage": "export", "status": "finished", "metrics": {}, "model_dir": str(folder), "versions": versions()}
    write_json(folder / "result.json", result)
    return folder


def _settings(run: Path, checkpoint: str, trust_remote_code: bool) -> tuple[DictConfig, StageRecord]:
    """Reads the settings of the stage that a folder belongs to, and finds the record of the stage."""
    config, result = run / "config.yaml", run / "result.json"
    for file in (config, result):
        if not file.is_file():
            raise UserError(
                f"checkpoint={checkpoint}: there is no {file.name} in {run}; leave the checkpoint in the folder of its "
                "run, which holds the settings of the model"
            )
    stage = read_record(result).get("stage")
    if not isinstance(stage, str) or stage not in STAGES:
        raise UserError(f"{result}: stage={stage}: expected one of {', '.join(STAGES)}")
    loaded = read_settings(config, trust_remote_code=trust_remote_code)
    # The attention implementation has no effect on the weights, and could be a kernel that is loaded from the hub.
    loaded.model.attn_implementation = None
    return loaded, STAGES[stage]


def _net(
    config: DictConfig, record: StageRecord, checkpoint: Path, dtype: torch.dtype | None
) -> tuple[nn.Module, Renderer]:
    """The trained model, on the CPU, and the renderer of the run."""
    source: ModelSource = instantiate(config.model, _convert_="all")
    scalar = record.trains_reward_model
    shared = record.has_four_roles and config.get("roles") == "shared"
    prefix = "roles.backbone.net." if shared else f"{record.exported}."
    saved = read_weights(checkpoint)
    if shared:
        # The checkpoint also holds the adapters of the other roles.
        saved = {k: v for k, v in saved.items() if not is_part_of_adapter(k) or is_part_of_adapter(k, ADAPTER)}
    weights = {k.removeprefix(prefix): v.to(dtype or v.dtype) for k, v in saved.items() if k.startswith(prefix)}
    if not weights:
        raise UserError(
            f"checkpoint={checkpoint}: holds no weights of the model that stage={record.name} trains ({prefix}…)"
        )
    if source.adapter is None:
        source = source if dtype is None else replace(source, dtype=str(dtype).removeprefix("torch."))
        empty = empty_net(source, scalar=scalar)
        check_shapes_of(weights, empty)
        return rebuilt(empty, weights), load_renderer(config)
    return adapted(source, weights, scalar=scalar, dtype=dtype), load_renderer(config)
