"""Examines the stages of a configuration: runs each for two optimizer steps on the real data, and checks it."""

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from omegaconf import DictConfig, open_dict

from lightning_rlhf.assembly.examine_reward import examine_reward
from lightning_rlhf.assembly.findings_table import show, sum_up
from lightning_rlhf.assembly.handoff import Models
from lightning_rlhf.assembly.interrupted import interruptions
from lightning_rlhf.assembly.library_messages import silence_libraries
from lightning_rlhf.assembly.micro_batches import choose_parts
from lightning_rlhf.assembly.renderer import load_renderer
from lightning_rlhf.assembly.stage import prepare, read_data
from lightning_rlhf.assembly.user_message import user_message
from lightning_rlhf.callbacks import StartChecks
from lightning_rlhf.callbacks.run_record import versions
from lightning_rlhf.checks.data import length_tells
from lightning_rlhf.checks.finding import Finding
from lightning_rlhf.checks.texts import QUESTION, served_prompts, special_tokens, template_round_trip
from lightning_rlhf.checks.two_steps import Watch
from lightning_rlhf.data.adapting import collected
from lightning_rlhf.data.pairs import Pair
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.distributed.collectives import gather_objects, is_first_process
from lightning_rlhf.distributed.phases import release
from lightning_rlhf.saving import write_json
from lightning_rlhf.stages import stage_record

_MOST_PROMPTS = 64
# The remedy for an error, by the phase that the stage had reached.
_REMEDIES = {
    "settings": "change what the message names",
    "data": "correct what the message names; data.on_error=skip leaves out bad rows",
    "models": "change what the message names",
    "two steps": "correct what the message names: the first steps of this stage fail",
    "held-out data": "correct what the message names: the stage would fail at the end of its first epoch",
    "export": "the exported model would differ from the trained model",
}


def examine(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Examines all stages in order. Each starts from the export of the stage before it.

    Args:
        config: The composed configuration of `train`.
        folder: Folder in which `result.json` is written.

    Returns:
        The content of `result.json`.

    Raises:
        UserError: If a stage does not exist.
    """
    silence_libraries()
    start = time.perf_counter()
    work = folder / "work"
    findings: dict[str, list[Finding]] = {}
    try:
        for stage, found in _examine_all(config, work):
            findings[stage] = found
            show(stage, found)
    finally:
        if is_first_process():
            shutil.rmtree(work, ignore_errors=True)
    record = {
        "stage": "doctor",
        "status": "finished",
        "checks": [{"stage": stage, **finding._asdict()} for stage, found in findings.items() for finding in found],
        "metrics": {},
        "seconds": round(time.perf_counter() - start, 3),
        "versions": versions(),
        "seed": config.seed,
    }
    if is_first_process():
        write_json(folder / "result.json", record)
        sum_up([finding.status for found in findings.values() for finding in found], folder / "result.json")
    return record


def _examine_all(config: DictConfig, work: Path) -> Iterator[tuple[str, list[Finding]]]:
    """The findings about the tokenizer, and about each stage."""
    try:
        renderer = load_renderer(config)
    except Exception as error:
        yield "tokenizer", [Finding("model", "error", _told(error), _REMEDIES["settings"])]
        return
    yield "tokenizer", list(_look_at_texts(renderer))
    models: dict[str, Path] = {}
    for number, name in enumerate(config.stages):
        found, came_to_its_end = _examine_stage(config, name, work / name, renderer, models)
        yield name, found
        # Only the first rank writes the export, so all ranks have to agree whether it succeeded.
        if not all(gather_objects([came_to_its_end])):
            for rest in config.stages[number + 1 :]:
                yield rest, [Finding("stage", "warning", "not examined", f"it starts from the export of {name}")]
            return
        models[name] = work / name / "model"


def _look_at_texts(renderer: Renderer) -> Iterator[Finding]:
    found = template_round_trip(renderer, [[QUESTION]])
    if found.status == "ok":
        # Otherwise the template renders no answer that could be looked at.
        yield special_tokens(renderer)
    yield found
    yield served_prompts(renderer)


def _examine_stage(
    config: DictConfig, name: str, folder: Path, renderer: Renderer, models: Models
) -> tuple[list[Finding], bool]:
    """The findings about one stage, and whether the stage ran to its end."""
    start, watch = StartChecks(fatal=False), Watch()
    found: list[Finding] = []
    try:
        with collected() as adapted:
            stage = prepare(_shortened(config, name), name, folder, renderer, models)
            watch.phase = "data"
            with _messages() as said:
                read_data(stage)
                choose_parts(stage)
            # An accumulated part is a batch to Lightning.
            stage.trainer.limit_train_batches = 2 * stage.trainer.accumulate_grad_batches
        found += [Finding("sizes", "warning", note, "give more data, or change the setting") for note in adapted]
        found += _of_messages(said)
        found += _look_at_data(stage.data, renderer)
        stage.trainer.callbacks += [start, watch]  # type: ignore[attr-defined]
        pl.seed_everything(config.seed, verbose=False)
        with interruptions():
            stage.trainer.fit(stage.module, stage.data)
    except Exception as error:
        message = str(error) if watch.phase == "export" else _told(error)
        return [*found, *start.findings.values(), Finding(watch.phase, "error", message, _REMEDIES[watch.phase])], False
    if models:
        # The stage before this one has made only two steps, so its model need not end its responses.
        start.findings.pop("responses end", None)
    findings = [
        Finding("settings", "ok", "all settings are known, and all batch sizes divide"),
        *found,
        *start.findings.values(),
        watch.gradients(stage.module),
        watch.movement_of_weights(),
        Finding("two steps", "ok", "two steps and a batch of held-out data ran without an error"),
        Finding("export", "ok", "the exported model reloads and gives the same numbers"),
        *examine_reward(stage, models),
    ]
    release(stage.trainer)
    return findings, True


def _shortened(config: DictConfig, name: str) -> DictConfig:
    """The configuration for two optimizer steps, one batch of held-out data, and no callback except the export."""
    config = config.copy()
    block = config[stage_record(name).block]
    with open_dict(config):
        config.callbacks = {"export": {"_target_": "lightning_rlhf.callbacks.Export"}}
        block.callbacks, config.logger = {}, {}
        block.trainer.check_val_every_n_epoch = block.trainer.limit_val_batches = 1
        block.trainer.num_sanity_val_steps = 0
        # Few rows may have only one minibatch in an epoch.
        block.trainer.max_epochs = block.trainer.max_steps = 2
    return config


def _told(error: Exception) -> str:
    """The message for the user; raises the error if it is a defect and not a mistake of the user."""
    message = user_message(error)
    if message is None:
        raise error
    return message


def _of_messages(said: Sequence[logging.LogRecord]) -> Iterator[Finding]:
    told = [record.getMessage() for record in said if record.levelno < logging.WARNING]
    yield Finding("data", "ok", "; ".join(told))
    for record in said:
        if record.levelno >= logging.WARNING:
            yield Finding("data", "warning", record.getMessage(), "raise the limit, or correct the rows")


def _look_at_data(data: pl.LightningDataModule, renderer: Renderer) -> Iterator[Finding]:
    rows = getattr(data, "train_rows", [])
    if rows and isinstance(rows[0], Pair):
        yield length_tells(rows)
    if prompts := getattr(data, "train_prompts", []):
        yield template_round_trip(renderer, [prompt.columns["messages"] for prompt in prompts[:_MOST_PROMPTS]])


@contextmanager
def _messages() -> Iterator[list[logging.LogRecord]]:
    """Collects the messages about the data, such as how many rows there are, instead of printing them."""
    said: list[logging.LogRecord] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = said.append  # type: ignore[method-assign, assignment]
    log = logging.getLogger("lightning_rlhf.data")
    level, log.propagate = log.level, False
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = True
