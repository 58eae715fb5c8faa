"""Runs stages one after the other, and tells what came of them."""

import logging
import shlex
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from lightning_rlhf.assembly.changed_settings import check_unchanged
from lightning_rlhf.assembly.library_messages import quiet
from lightning_rlhf.assembly.resume import Resumed, find_resumed
from lightning_rlhf.assembly.reward_models import fill_in
from lightning_rlhf.assembly.stage import BLOCKS, Stage, fit, prepare
from lightning_rlhf.assembly.summary import print_summary
from lightning_rlhf.assembly.target_checks import check_targets
from lightning_rlhf.callbacks.run_record import versions, write_json
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.distributed.collectives import is_first_process
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.files import adapter_folder
from lightning_rlhf.models.source import ModelSource

log = logging.getLogger(__name__)


def run(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Runs the stages of a configuration.

    Args:
        config: The composed configuration.
        folder: The run's folder.

    Returns:
        What `result.json` holds.

    Raises:
        UserError: For anything that the user can mend.
        KeyboardInterrupt: If the user stopped the run; says how to go on.
    """
    quiet()
    check_recipe(config)
    names = list(config.stages)
    check_overrides(names, config.model)
    resumed = find_resumed(config.resume, names)
    renderer = load_renderer(config)
    folders = {name: folder / name if len(names) > 1 else folder for name in names}
    # All settings before all data before all training: a mistake about the last stage shows at once.
    stages = []
    for number, name in enumerate(names):
        if (stopped := resumed.folder_of(name)) is not None:
            check_unchanged(config, name, stopped, finished=name in resumed.finished, handed_on=number > 0)
        if name not in resumed.finished:
            stages.append(prepare(config, name, folders[name], renderer))
        hand_on(config, name, resumed.finished.get(name, {}).get("model_dir", str(folders[name] / "model")))
    for stage in stages:
        stage.data.setup("fit")
    try:
        if len(names) == 1:
            result = fit(stages[0], resumed.checkpoints.get(names[0]))
        else:
            result = _run_pipeline(names, stages, folder, resumed, config.seed)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(_how_to_go_on(folder, names)) from error
    if is_first_process():
        print_summary(result, folder)
    return result


def load_renderer(config: DictConfig) -> Renderer:
    """What makes tokens of conversations for all stages.

    Raises:
        UserError: If `model` has settings that do not exist, or there is no such tokenizer.
    """
    check_targets({"model": dict(config.model)})
    source: ModelSource = instantiate(config.model, _convert_="all")
    return Renderer(source.load_tokenizer(), config.data.template, stop_ids=source.stop_ids())


def check_recipe(config: DictConfig) -> None:
    """Checks that the demo's settings are not used for another model.

    Raises:
        UserError: If they are.
    """
    choices = HydraConfig.get().runtime.choices
    if choices.get("experiment") == "demo" and choices["model"] not in ("demo", "tiny"):
        raise UserError(
            f"model={choices['model']} with experiment=demo, whose learning rates are for a net of 2 million "
            "parameters: add experiment=none"
        )


def check_overrides(names: list[str], model: DictConfig) -> None:
    """Checks that nothing was set for a stage that does not run, or for an architecture that is not built.

    A recipe may hold settings of all stages, and each size has an architecture beside its weights, so Hydra takes them.

    Args:
        names: Of the stages that run.
        model: Its node of the configuration.

    Raises:
        UserError: If something was.
    """
    loaded = next((name for name in ("meta_dir", "pretrained") if model.get(name) is not None), None)
    idle = {block: stage for stage, block in BLOCKS.items() if stage not in names}
    for override in HydraConfig.get().overrides.task:
        key = override.lstrip("+~").split("=")[0]
        if key.split(".")[0] in idle:
            raise UserError(f"{key} is set, but stage={idle[key.split('.')[0]]} does not run here")
        if loaded and key.split(".")[:2] in (["model", "config"], ["model", "config_tokenizer"]):
            raise UserError(
                f"{key} is set, but model.{loaded}={model[loaded]} brings an architecture and a tokenizer of its own; "
                "model.pretrained=null builds model.config, with random weights; model.tokenizer names another"
            )


def _run_pipeline(names: list[str], stages: list[Stage], folder: Path, resumed: Resumed, seed: int) -> dict[str, Any]:
    results: dict[str, Any] = dict(resumed.finished)

    def record(status: str) -> dict[str, Any]:
        whole = {
            "stage": "pipeline",
            "status": status,
            "metrics": {},
            "model_dir": results.get(names[-1], {}).get("model_dir"),
            # Of those in other folders too.
            "seconds": round(sum(result["seconds"] for result in results.values()), 3),
            "versions": versions(),
            "seed": seed,
            "stages": results,
        }
        if is_first_process():
            from lightning_rlhf.report import write_report

            write_json(folder / "result.json", whole)
            write_report(folder)
        return whole

    for name, result in resumed.finished.items():
        _say(f"{name}: finished already, {result['model_dir']}")
    # Before anything is trained: whoever goes on from this folder has to find what is finished.
    record("running")
    try:
        for number, stage in enumerate(stages, len(results) + 1):
            _say(f"\n{number}/{len(names)} {stage.name}")
            results[stage.name] = fit(stage, resumed.checkpoints.get(stage.name))
            record("running")
    except BaseException as error:
        record("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    return record("finished")


def hand_on(config: DictConfig, name: str, model_dir: str) -> None:
    """Lets the following stages start from what this one exports."""
    if name == "sft" and (config.roles == "shared" or config.model.quantization):
        # All stages train adapters of one net: PPO needs no other if it is to play all roles; and merged weights would
        # be quantized again, back to the numbers that they had before the adapter.
        config.model.adapter_dir = str(adapter_folder(Path(model_dir)))
    elif name == "sft":
        config.model.pretrained, config.model.tokenizer, config.model.meta_dir = model_dir, None, None
    elif name == "reward":
        fill_in(config, model_dir)


def _how_to_go_on(folder: Path, names: list[str]) -> str:
    """The line that continues a run that was stopped."""
    try:
        find_resumed(str(folder), names)
    except UserError:
        return "interrupted before the first checkpoint; nothing is left to go on from"
    overrides = [override for override in HydraConfig.get().overrides.task if not override.startswith("resume=")]
    # The command's own file stands in argv when the installed program was called.
    program = "python train.py" if Path(sys.argv[0]).parent.name != "cli" else "lightning-rlhf train"
    return f"interrupted; go on with: {program} {shlex.join([*overrides, f'resume={folder}'])}"


def _say(message: str) -> None:
    if is_first_process():
        log.info(message)
