"""Reads what a stage has left in its folder into the record that its exports carry."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lightning_rlhf.models.training_record import MANIFEST, DataUsed, Measured, TrainingRecord, records_of
from lightning_rlhf.report.numbers import METRICS, final, stage_numbers
from lightning_rlhf.report.read import read_run
from lightning_rlhf.report.run import Stage
from lightning_rlhf.stages import STAGES, StageRecord
from lightning_rlhf.yaml_files import read_yaml

_TRAINER = (
    *("max_epochs", "max_steps", "precision", "gradient_clip_val"),
    *("accumulate_grad_batches", "devices", "num_nodes"),
)
_MODEL = ("dtype", "dropout", "adapter", "quantization")
_NOT_SETTINGS = ("_target_", "_partial_", "engine", "evaluation", "gold")


def training_records(folder: Path, stage: str, rows: Mapping[str, int]) -> list[TrainingRecord]:
    """Returns the records of the stages behind a model, of which the stage in this folder is the last.

    Whatever the folder does not contain is left out: without `config.yaml` there are no data and settings, and without
    `metrics.csv` no metrics before training.

    Args:
        folder: Folder of the stage, such as `outputs/sft/<run>`.
        stage: Name of the stage.
        rows: Numbers of rows, by the name of the use: `train`, `held out`.
    """
    file = folder / "config.yaml"
    loaded = OmegaConf.to_container(read_yaml(file), resolve=False) if file.is_file() else {}
    config: dict[str, Any] = {str(key): value for key, value in loaded.items()} if isinstance(loaded, dict) else {}
    model = config.get("model") or {}
    base = model.get("meta_dir") or model.get("pretrained")
    earlier = records_of(filter(None, [base, model.get("adapter_dir"), *_reward_models(config)]))
    # A stage without loggers, as doctor has it, leaves no folder before its export.
    measured = read_run(folder).stages if folder.is_dir() else ()
    own = TrainingRecord(
        stage=stage,
        base_model=base if base is None or not Path(base).is_dir() else f"{Path(base).parent.name}/{Path(base).name}",
        data=_data(config.get(STAGES[stage].block, {}).get("data", {}), rows) if config else [],
        settings=_settings(config, STAGES[stage], measured) if config else {},
        metrics=[metric for run in measured for metric in _metrics(run)],
    )
    return [*earlier, own]


def _reward_models(config: Mapping[str, Any]) -> list[str]:
    """The folders of the reward models of this package that a stage was scored by."""
    found, nodes = [], [config.get("reward")]
    for node in nodes:
        if isinstance(node, dict):
            nodes += node.values()
            path = node.get("path")
            if isinstance(path, str) and (Path(path) / MANIFEST).is_file():
                found.append(path)
    return found


def _data(settings: Mapping[str, Any], rows: Mapping[str, int]) -> list[DataUsed]:
    uses = {"train": settings.get("path"), "held out": settings.get("val_path") or settings.get("path")}
    used = [_used(use, str(path), rows) for use, path in uses.items() if path]
    return [*used, *([_used("mixed in", str(settings["ptx_path"]), {})] if settings.get("ptx_path") else [])]


def _used(use: str, path: str, rows: Mapping[str, int]) -> DataUsed:
    local, package = Path(path).expanduser().exists(), path.startswith("pkg://")
    used = DataUsed(use=use, name=Path(path).name if local else path, hub=not local and not package)
    if use in rows:
        used["rows"] = rows[use]
    return used


def _settings(config: Mapping[str, Any], record: StageRecord, measured: Sequence[Stage]) -> dict[str, Any]:
    block, model = config.get(record.block, {}), config.get("model") or {}
    trainer = {**(config.get("trainer") or {}), **(block.get("trainer") or {})}
    module = block.get("module") or {}
    # Too few rows make minibatches smaller than the setting, and a token budget or the memory gives them more parts.
    sizes = module if "minibatch_size" in module else block.get("data") or {}
    minibatch = _was(measured, "minibatch_size") or sizes.get("minibatch_size")
    trainer["accumulate_grad_batches"] = _was(measured, "accumulate_grad_batches") or trainer.get(
        "accumulate_grad_batches"
    )
    settings = {
        "seed": config.get("seed"),
        **_plain(module),
        "reward": _named(config.get("reward")) if record.has_four_roles else None,
        "minibatch_size": minibatch,
        "trainer": {name: trainer[name] for name in _TRAINER if trainer.get(name) is not None},
        "model": {name: _plain(model[name]) for name in _MODEL if model.get(name) is not None},
    }
    return {name: value for name, value in settings.items() if value is not None}


def _was(measured: Sequence[Stage], name: str) -> int | None:
    """A size that the stage has used, from the last result that says it."""
    found: list[int | None] = [getattr(stage.result, name) for stage in measured]
    return next(filter(None, reversed(found)), None)


def _plain(node: Any) -> Any:
    """A node of a configuration without what names code instead of a setting."""
    if isinstance(node, dict):
        return {
            # The optimizer gets its learning rate from the stage.
            key: _named(value) if key == "optimizer" else _plain(value)
            for key, value in node.items()
            if key not in _NOT_SETTINGS and value is not None
        }
    return [_plain(value) for value in node] if isinstance(node, list) else node


def _named(node: Any) -> str | None:
    """The name of what a node builds: that of the user's function, or of the class. Its settings may be secret."""
    if not isinstance(node, dict):
        return None
    function = node.get("function")
    if isinstance(function, dict):
        return _named(function)
    return str(function or node.get("_target_")).rpartition(".")[2]


def _metrics(stage: Stage) -> list[Measured]:
    names = dict.fromkeys([*METRICS, *stage.result.metrics])
    return [
        Measured(
            name=name,
            label=number.label,
            value=value if value is not None and math.isfinite(value) else None,
            shown=number.value,
            before=number.before,
            note=number.note,
        )
        for name in names
        for value in [final(stage, name)]
        for number in stage_numbers(stage, (name,))
    ]
