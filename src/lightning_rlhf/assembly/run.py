"""Runs the stages of a configuration one after the other. Each starts from the models of earlier stages."""

import logging
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from lightning_rlhf.assembly.adaptations import Adaptations
from lightning_rlhf.assembly.changed_settings import changes, check_same_stages, check_unchanged
from lightning_rlhf.assembly.going_on import AUTO, continued, goes_on_in, save_command
from lightning_rlhf.assembly.handoff import handed_on
from lightning_rlhf.assembly.library_messages import silence_libraries
from lightning_rlhf.assembly.problems import Problems
from lightning_rlhf.assembly.renderer import load_renderer
from lightning_rlhf.assembly.result import RunResult
from lightning_rlhf.assembly.resume import Resumed, find_resumed, finished_result, reopen
from lightning_rlhf.assembly.stage import PreparedStage, fit, prepare, read_data
from lightning_rlhf.assembly.summary import print_going_on, print_summary
from lightning_rlhf.callbacks.run_record import status_of, versions
from lightning_rlhf.distributed.collectives import is_first_process
from lightning_rlhf.run_log import RunLog, everything_logged
from lightning_rlhf.saving import write_json

log = logging.getLogger(__name__)


def run(config: DictConfig, folder: Path, overrides: Sequence[str] | None = None) -> RunResult:
    """Runs the stages of a configuration, or goes on with a run that was stopped.

    Args:
        config: The composed configuration. It is not changed.
        folder: Folder of the run. A single stage writes directly into it, and each of several into a subfolder.
        overrides: Overrides of the command line. The folder keeps them, so that `resume=FOLDER` goes on with them.

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
    if config.resume == AUTO:
        config = continued(config, folder)
    with everything_logged() as run_log:
        return _run(config, folder, overrides, run_log)


def _run(config: DictConfig, folder: Path, overrides: Sequence[str] | None, run_log: RunLog) -> RunResult:
    names, here = list(config.stages), goes_on_in(config, folder)
    check_same_stages(config)
    changed = changes(config)
    if here and not changed and (result := finished_result(folder)) is not None:
        _say(f"{', '.join(names)}: finished already, and no setting has changed")
        if is_first_process():
            print_summary(result, folder)
        return result
    stages, resumed = prepare_all(config, folder)
    # The log is opened only now, so that an early error leaves no file.
    run_log.open(folder / "train.log")
    if is_first_process():
        if here:
            # In this order, so that a rank that comes later does not find a finished run without changed settings.
            reopen(folder)
            if overrides is not None:
                save_command(folder, config, overrides)
        if config.resume is not None:
            left = [name for name in names if name not in resumed.finished]
            print_going_on(Path(config.resume).expanduser(), left, resumed.checkpoints, changed)
    if len(names) == 1:
        result = fit(stages[0], resumed.checkpoints.get(names[0]))
    else:
        result = _run_pipeline(names, stages, folder, resumed, config.seed)
    if is_first_process():
        print_summary(result, folder)
    return result


def prepare_all(config: DictConfig, folder: Path) -> tuple[list[PreparedStage], Resumed]:
    """Prepares the stages of a configuration that have not finished, and reads their data.

    Args:
        config: The composed configuration. It is not changed.
        folder: Folder of the run.

    Returns:
        The stages, and what a run that this one resumes has left.

    Raises:
        UserError: If the user can correct the error.
    """
    silence_libraries()
    names, here = list(config.stages), goes_on_in(config, folder)
    config = config.copy()
    config.run_dir = str(folder)
    resumed = find_resumed(config.resume, names, here=here)
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
    return stages, resumed


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

            write_json(folder / "result.json", result)
            # The command draws the card of a run that was interrupted, wherever the signal found it.
            if status != "interrupted":
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
        write(status_of(error))
        raise
    return write("finished")


def _say(message: str) -> None:
    if is_first_process():
        log.info(message)
