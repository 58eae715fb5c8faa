"""Writes the model card of an export: a README.md with the YAML header of the Hugging Face hub."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined

from lightning_rlhf.models.training_record import TrainingRecord, hub_model
from lightning_rlhf.models.usage import Lines
from lightning_rlhf.stages import STAGES

_TEMPLATE = Path(__file__).with_name("model_card.md.j2")
FOLDER = "path/to/this/folder"
"""Stands for the folder of the export in the code of a card, because a card moves with its folder."""
_UNKNOWN_LICENCE = """\
# Fill in the licence and the languages before you publish this model, and remove the number signs:
# license: apache-2.0
# language: en
"""
_LICENCE_FIELDS = ("license", "license_name", "license_link")


class Origin(NamedTuple):
    """Where the weights of a model come from."""

    name: str
    """The name of the model with which the training began, without a path, which concerns nobody else."""
    hub: str | None
    """Its name on the hub, if it has one."""
    sentence: str
    """The sentence about it."""


def model_card(
    *,
    base: str | None,
    training: Sequence[TrainingRecord],
    lines: Lines,
    reward_model: bool,
    adapter: bool = False,
    sampled: bool = False,
    notes: Sequence[str] = (),
    origin: Origin | None = None,
) -> str:
    """Returns the card of an export.

    Args:
        base: Hub name or folder of the model with which the last stage began; None if its weights were random.
        training: The stages behind the model, the oldest first.
        lines: Code that loads, uses and serves the export, whose folder it calls `FOLDER`.
        reward_model: Whether the export is a reward model, and not a language model.
        adapter: Whether the export is an adapter without its base model.
        sampled: Whether the generation settings of the export are those of the training.
        notes: Further sentences, such as one about averaged weights.
        origin: Where the weights come from; None finds it out from `base` and `training`.
    """
    origin, stages = origin or _origin(base, training), ", ".join(map(_title, training))
    task = "text-classification" if reward_model else "text-generation"
    licence, name = _licence_of(base), f"{origin.name}: {stages}" if stages else origin.name
    data = ModelCardData(
        base_model=origin.hub,
        base_model_relation=None if origin.hub is None else "adapter" if adapter else "finetune",
        datasets=sorted({data["name"] for record in training for data in record["data"] if data["hub"]}) or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag=task,
        tags=["lightning-rlhf", "rlhf", *dict.fromkeys(record["stage"] for record in training), *["lora"] * adapter],
        model_name=name,
        eval_results=[_result(task, training[-1], metric) for metric in _numbers(training)] or None,
        **licence,
    )
    # The card is Markdown and not HTML, and the hub sanitizes it.
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = _cell
    body = environment.from_string(_TEMPLATE.read_text("utf-8")).render(
        title=name,
        kind="reward model" if reward_model else "language model",
        stages=stages,
        origin=origin,
        adapter=adapter,
        notes=notes,
        folder=FOLDER,
        lines=lines,
        reward_model=reward_model,
        sampled=sampled,
        training=[_shown(record) for record in training],
        licence=licence.get("license"),
        version=version("lightning-rlhf"),
    )
    text = f"---\n{'' if licence else _UNKNOWN_LICENCE}{data.to_yaml()}\n---\n\n{body}"
    # The hub's own reader, which raises an error if the header could not be read there.
    ModelCard(text)
    return text


def _origin(base: str | None, training: Sequence[TrainingRecord]) -> Origin:
    if (hub := hub_model(base)) is not None:
        return Origin(hub.rpartition("/")[2], hub, f"The training began with [{hub}](https://huggingface.co/{hub}).")
    first = training[0]["base_model"] if training else base
    if first is None:
        return Origin("A model from scratch", None, "The training began with random weights.")
    return Origin(Path(first).name, None, f"The training began with `{Path(first).name}`.")


def _title(record: TrainingRecord) -> str:
    stage = STAGES.get(record["stage"])
    return record["stage"] if stage is None else stage.title.lower() if stage.title[1:].islower() else stage.title


def _shown(record: TrainingRecord) -> dict[str, Any]:
    return {
        "title": (title := _title(record))[0].upper() + title[1:],
        "start": "random weights" if record["base_model"] is None else f"`{record['base_model']}`",
        "data": [{"rows": "", **data} for data in record["data"]],
        "metrics": record["metrics"],
        "compared": any(metric["before"] for metric in record["metrics"]),
        "settings": yaml.safe_dump(record["settings"], sort_keys=False) if record["settings"] else "",
    }


def _numbers(training: Sequence[TrainingRecord]) -> list[Mapping[str, Any]]:
    return [metric for record in training[-1:] for metric in record["metrics"] if metric["value"] is not None]


def _result(task: str, record: TrainingRecord, metric: Mapping[str, Any]) -> EvalResult:
    held_out = [data["name"] for data in record["data"] if data["use"] == "held out"]
    return EvalResult(
        task_type=task,
        dataset_type=next((data["name"] for data in record["data"] if data["hub"]), "held-out"),
        dataset_name=f"held-out rows of {held_out[0]}" if held_out else "held-out rows",
        metric_type=metric["name"],
        metric_name=metric["label"],
        metric_value=metric["value"],
    )


def _licence_of(base: str | None) -> dict[str, Any]:
    """Reads the licence of a base model from the card in its folder, if the model is in a folder and has a card."""
    card = Path(base or "") / "README.md"
    if base is None or not card.is_file():
        return {}
    try:
        header = ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    except (ValueError, yaml.YAMLError):
        return {}
    found = {name: str(header[name]) for name in _LICENCE_FIELDS if header.get(name)}
    return found if "license" in found else {}


def _cell(text: str) -> str:
    """Text in a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
