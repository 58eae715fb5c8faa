"""Renders the folder of a run as one self-contained page."""

import os
import shlex
import tempfile
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lightning_rlhf.report.curves import draw_curves
from lightning_rlhf.report.health import rung, stopped_by
from lightning_rlhf.report.numbers import costs, decimal, duration, headline, stage_numbers, summary
from lightning_rlhf.report.read import read_run
from lightning_rlhf.report.run import Run
from lightning_rlhf.report.samples import before_and_after, rollouts_over_time

_TEMPLATE = Path(__file__).with_name("page.html.j2")
_STYLE = Path(__file__).with_name("page.css")
_MAX_CHARACTERS = 1200
_STATUS = {
    "running": "This run is still going: the numbers and curves show its progress so far.",
    "stopped": "An alarm or a time limit ended this run before its first evaluation.",
    "interrupted": "This run was interrupted: the numbers and curves end at that point.",
    "failed": "This run failed: the numbers and curves end at that point.",
    "unfinished": "This run has written no result yet: it is still going, or it was stopped.",
}


def write_report(run_dir: Path) -> Path:
    """Writes the run card of a run that has finished, is running or was interrupted.

    The page depends only on the files of the run. It replaces an older page in a single step.

    Args:
        run_dir: Folder of one stage, or of a pipeline with a folder for each stage.

    Returns:
        The path of the page, `run_dir/report.html`.

    Raises:
        UserError: If the folder does not exist.
    """
    html = render(read_run(run_dir))
    target = run_dir / "report.html"
    handle, temporary = tempfile.mkstemp(dir=run_dir, prefix=".report-", suffix=".html")
    try:
        with os.fdopen(handle, "wb") as file:
            # Model output may contain half of a surrogate pair, which UTF-8 cannot encode.
            file.write(html.encode("utf-8", "replace"))
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    return target


def render(run: Run) -> str:
    """The page of a run as HTML. All text from the run is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"clip": _clip, "svg": Markup, "decimal": _decimal, "duration": duration, "python": repr}
    big = headline(run)
    # In a pipeline, only the last stage shows answers, because they are the result of the whole pipeline.
    answered = [stage for stage in run.stages if before_and_after(stage)][-1:]
    stages = [
        {
            "stage": stage,
            "title": stage.record.title,
            "unit": stage.record.unit,
            "numbers": [number for number in stage_numbers(stage) if len(run.stages) > 1 or number not in big],
            "pictures": draw_curves(stage, health=False),
            "signs": draw_curves(stage, health=True),
            "pairs": before_and_after(stage) if stage in answered else [],
            "rollouts": rollouts_over_time(stage),
        }
        for stage in run.stages
    ]
    overrides = run.overrides
    return environment.from_string(_TEMPLATE.read_text("utf-8")).render(
        run=run,
        style=Markup(_STYLE.read_text("utf-8")),
        title=" → ".join(stage.record.short_title for stage in run.stages),
        warning=None if run.result.status == "finished" else _STATUS.get(run.result.status, run.result.status),
        summary=summary(run),
        headline=big,
        stages=stages,
        alarms=rung(run),
        stopped_by=stopped_by(run),
        weights=(run.stages[-1].result.weights if run.stages else None) or "model/ has the last weights",
        costs=costs(run),
        command=None if overrides is None else shlex.join(["python", "train.py", *overrides]),
        model_dir=run.result.model_dir or (run.stages[-1].result.model_dir if run.stages else None),
        model_class="AutoModelForSequenceClassification" if _ends_with_reward_model(run) else "AutoModelForCausalLM",
    )


def _ends_with_reward_model(run: Run) -> bool:
    return bool(run.stages) and run.stages[-1].record.trains_reward_model


def _decimal(value: float | None) -> str:
    return "–" if value is None else decimal(value)


def _clip(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…"
