"""Renders the folder of a run as one self-contained page."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_rlhf.report.browser import browser
from lightning_rlhf.report.costs import costs
from lightning_rlhf.report.health import checks, rung, stopped_by
from lightning_rlhf.report.html import render_page, write_page
from lightning_rlhf.report.layout import pictures
from lightning_rlhf.report.lineage import cards_of_stages, siblings, sources
from lightning_rlhf.report.links import Link, files, part_of
from lightning_rlhf.report.memory import memory
from lightning_rlhf.report.numbers import Number, headline, stage_numbers
from lightning_rlhf.report.read import read_run
from lightning_rlhf.report.run import Run, Stage
from lightning_rlhf.report.samples import Pair, before_and_after, order, rollouts_over_time
from lightning_rlhf.report.setup import origin, setup
from lightning_rlhf.report.sparklines import HEIGHT, WIDTH, sparklines
from lightning_rlhf.report.summary import summary
from lightning_rlhf.report.use import how_to_use

_STATUS = {
    "running": "This run is still going: the numbers and curves show its progress so far.",
    "stopped": "An alarm or a time limit ended this run before its first evaluation.",
    "interrupted": "This run was interrupted: the numbers and curves end at that point.",
    "diverged": "The numbers of this run are no longer finite: the curves end at that point.",
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
    return write_page(run_dir / "report.html", render(read_run(run_dir)))


def render(run: Run) -> str:
    """The page of a run as HTML. All text from the run is escaped."""
    big, alarms = headline(run), rung(run)
    # In a pipeline, only the last stage shows answers, because they are the result of the whole pipeline.
    answered = [stage for stage in run.stages if before_and_after(stage)][-1:]
    stages = [_stage(stage, big if len(run.stages) == 1 else [], stage in answered) for stage in run.stages]
    command = None if run.overrides is None else _command(run.overrides)
    health, settings, cost = pictures(run.stages, "health"), setup(run), costs(run)
    title_of_answers = next((_answers_title(item["pairs"]) for item in stages if item["pairs"]), "")
    uses, links, versions = how_to_use(run), files(run), origin(run)
    passed, samples, planned, cards = checks(run), browser(run), memory(run), cards_of_stages(run)
    sections = [
        ("answers", title_of_answers),
        *((item["stage"].name, item["stage"].record.short_title) for item in stages if item["shown"]),
        ("samples", "Samples" if samples else ""),
        ("health", "Health" if alarms or passed.rows or health[0] else ""),
        ("costs", "Time and memory" if cost.rows else ""),
        *([("load", uses[0].title)] if uses else []),
        ("again", "Run it again" if command else ""),
        ("setup", "Setup" if run.config or versions or settings.rows else ""),
        ("files", "Files" if links else ""),
    ]
    page = {
        "run": run,
        "title": " → ".join(stage.record.short_title for stage in run.stages),
        "part_of": part_of(run.folder),
        "siblings": siblings(run),
        "sources": sources(run),
        "cards": cards,
        "resumed": any(stage.result.resumed for stage in run.stages),
        "warning": None if run.result.status == "finished" else _STATUS.get(run.result.status, run.result.status),
        "summary": summary(run),
        "headline": big,
        "answers_title": title_of_answers,
        "stages": stages,
        "browser": samples,
        "alarms": alarms,
        "checks": passed,
        "stopped_by": stopped_by(run),
        "health": health,
        "costs": cost,
        "memory": planned,
        "size": (WIDTH, HEIGHT),
        "speed": pictures(run.stages, "costs"),
        "command": command,
        "uses": uses,
        "weights": _weights(run),
        "setup": settings,
        "origin": versions,
        "files": links,
        "contents": [Link(f"#{name}", title) for name, title in sections if title],
    }
    return render_page(
        "page.html.j2", page, styles=("page.css", "browser.css"), scripts=("page.js", "browser.js", "follow.js")
    )


def _stage(stage: Stage, above: Sequence[Number], answered: bool) -> dict[str, Any]:
    """The content of the section of a stage, without the numbers that are at the top of the page."""
    numbers = [number for number in stage_numbers(stage) if number not in above]
    drawn, rollouts = pictures([stage], "stage"), rollouts_over_time(stage)
    return {
        "stage": stage,
        "title": stage.record.title,
        "unit": stage.record.unit,
        "numbers": numbers,
        "pictures": drawn,
        "rollouts": rollouts,
        "metrics": sparklines(stage),
        "shown": bool(numbers or any(drawn) or rollouts),
        "pairs": before_and_after(stage) if answered else [],
        "order": order(stage) if answered else "",
    }


def _answers_title(pairs: Sequence[Pair]) -> str:
    if pairs[0].after is None:
        return "Answers" if pairs[0].before.iteration else "Answers before training"
    return "First and newest answers" if pairs[0].before.iteration else "Before and after"


def _weights(run: Run) -> str:
    """Which weights are in which folder of the last stage."""
    last = run.stages[-1] if run.stages else None
    average = ", and model_ema/ their average over the steps" if last and (last.folder / "model_ema").is_dir() else ""
    return ((last and last.result.weights) or "model/ has the last weights") + average


def _command(overrides: Sequence[str]) -> str:
    """The line that repeats the run. Hydra stores overrides as they were given, so only the shell's quotes are lost."""
    words = [override for override in overrides if not override.startswith("resume=")]
    return shlex.join(["python", "train.py", *words])
