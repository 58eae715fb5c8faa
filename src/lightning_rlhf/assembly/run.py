"""Runs the stages of a configuration one after the other. Each starts from the models of earlier stages."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from lightning_rlhf.assembly.adaptations import Adaptations
from lightning_rlhf.assembly.changed_settings import check_unchanged
from lightning_rlhf.assembly.handoff import handed_on
from lightning_rlhf.assembly.library_messages import silence_libraries
from lightning_rlhf.assembly.problems import Problems
from lightning_rlhf.assembly.renderer import load_renderer
from lightning_rlhf.assembly.result import RunResult
from lightning_rlhf.assembly.resume import Resumed, find_resumed
from lightning_rlhf.assembly.stage import PreparedStage, fit, prepare, read_data
from lightning_rlhf.assembly.summary import print_summary
from lightning_rlhf.callbacks.run_record import versions, write_json
from lightning_rlhf.distributed.collectives import is_first_process

log = logging.getLogger(__name__)


def run(config: DictConfig, folder: Path) -> RunResult:
    """Runs the stages of a configuration.

    Args:
        config: The composed configuration. It is not changed.
        folder: Folder of the run. A single stage writes directly into it, and each of several into a subfolder.

    Returns:
        The content of `result.json`.

    Raises:
        UserError: If the user can correct the error.
        KeyboardInterrupt: If the user stops the run.

    Example:
        >>> with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        ...     config = compose("train", ["stage=sft", "model=tiny"])
        >>> run(config, Path("outputs/mine"))["metrics"]["loss"]
    """
    silence_libraries()
    config = config.copy()
    config.run_dir = str(folder)
    names = list(config.stages)
    resumed = find_resumed(config.resume, names)
    renderer = load_renderer(config)
    # All settings are checked first, then all data, and then the training begins. Mistakes in the settings of the last
    # stage therefore show at once, together with those of the others.
    problems, adaptations = Problems(), Adaptations()
    stages, models = [], dict[str, Path]()
    for name in names:
        own = folder / name if len(names) > 1 else folder
        with problems.collected(), adaptations.of(name):
            if (stopped := resumed.folder_of(name)) is not None:
                finished = name in resumed.finished
                check_unchanged(handed_on(config, models), name, stopped, finished=finished, handed_on=bool(models))
            if name not in resumed.finished:
                stages.append(prepare(config, name, own, renderer, models))
        models[name] = resumed.model_of(name) or own / "model"
    problems.report()
    for stage in stages:
        with problems.collected(), adaptations.of(stage.record.name):
            read_data(stage)
    problems.report()
    adaptations.warn()
    if len(names) == 1:
        result = fit(stages[0], resumed.checkpoints.get(names[0]))
    else:
        result = _run_pipeline(names, stages, folder, resumed, config.seed)
    if is_first_process():
        print_summary(result, folder)
    return result


def _run_pipeline(
    names: list[str], stages: list[PreparedStage], folder: Path, resumed: Resumed, seed: int
) -> RunResult:
    results = dict(resumed.finished)

    def write(status: str) -> RunResult:
        result: RunResult = {
            "stage": "pipeline",
            "status": status,
            "metrics": {},
            "model_dir": results[names[-1]]["model_dir"] if names[-1] in results else None,
            # Includes finished stages in other folders.
            "seconds": round(sum(result["seconds"] for result in results.values()), 3),
            "versions": versions(),
            "seed": seed,
            "stages": results,
        }
        if is_first_process():
            from lightning_rlhf.report import write_report

            write_json(folder / "result.json", dict(result))
            write_report(folder)
        return result

    for name, result in resumed.finished.items():
        _say(f"{name}: has finished already, {result['model_dir']}")
    # Written before the training, so that a run that resumes from this folder finds the finished stages.
    write("running")
    try:
        for number, stage in enumerate(stages, len(results) + 1):
            name = stage.record.name
            _say(f"\n{number}/{len(names)} {name}")
            results[name] = fit(stage, resumed.checkpoints.get(name))
            write("running")
    except BaseException as error:
        write("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    return write("finished")


def _say(message: str) -> None:
    if is_first_process():
        log.info(message)
