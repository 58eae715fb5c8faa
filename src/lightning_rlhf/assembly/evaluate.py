"""Evaluates a reward model on preferences, or one model against another, as `lightning-rlhf evaluate` does."""

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lightning_rlhf.assembly.evaluate_settings import EvaluateSettings, JudgeSettings
from lightning_rlhf.assembly.evaluate_tables import print_models, print_reward_model
from lightning_rlhf.assembly.library_messages import silence_libraries
from lightning_rlhf.callbacks.run_record import versions
from lightning_rlhf.chat_models.budget import Budget
from lightning_rlhf.chat_models.client import remote_client
from lightning_rlhf.chat_models.grading import RUBRIC
from lightning_rlhf.console import console
from lightning_rlhf.data.faults import Report, kinds_of
from lightning_rlhf.data.formats import records_of
from lightning_rlhf.data.sources import held_out_source
from lightning_rlhf.errors import UserError, require
from lightning_rlhf.evaluation.answers import Answered, answerable, answered, draw_answers, read_answers, write_answers
from lightning_rlhf.evaluation.comparisons import read_comparisons
from lightning_rlhf.evaluation.people import BLIND_PAIRS, people_verdicts, write_blind_pairs
from lightning_rlhf.evaluation.reward_model import report_on, score_comparisons
from lightning_rlhf.evaluation.verdicts import JudgeVerdicts, gold_scores, judge_verdicts, reward_scores
from lightning_rlhf.evaluation.win_rates import as_dict, by_scores, win_rate
from lightning_rlhf.rewards.build import LoadedReward, load_reward
from lightning_rlhf.rewards.function import TextReward
from lightning_rlhf.rollout.speaker import load_speaker
from lightning_rlhf.saving import write_json, write_rows
from lightning_rlhf.synthesis.journal import Journal
from lightning_rlhf.synthesis.progress import cost
from lightning_rlhf.synthesis.verdicts import open_verdicts

SCORES = "scores.jsonl"
VERDICTS = "judge.verdicts.jsonl"


def evaluate(settings: EvaluateSettings, folder: Path) -> dict[str, Any]:
    """Evaluates a reward model or two models, prints the result and writes it into a folder.

    Args:
        settings: What to evaluate.
        folder: Folder for `result.json` and the rows behind it.

    Returns:
        The content of `result.json`; see docs/evaluation.md.

    Raises:
        UserError: If the user can correct the error.
    """
    for module in ("scipy", "sklearn"):
        require(module, "evaluation", "evaluate")
    silence_libraries()
    start = time.perf_counter()
    found = _reward_model(settings, folder) if settings.preferences is not None else _models(settings, folder)
    result = {
        "stage": "evaluate",
        "status": "finished",
        **found,
        "model_dir": None,
        "seconds": round(time.perf_counter() - start, 3),
        "versions": versions(),
        "seed": settings.seed,
    }
    write_json(folder / "result.json", result)
    console.say(f"result: {folder / 'result.json'}")
    return result


def _reward_model(settings: EvaluateSettings, folder: Path) -> dict[str, Any]:
    assert settings.preferences is not None
    report = Report()
    rows = read_comparisons(settings.preferences, settings.data.reading, report, settings.data.on_error)
    scored = score_comparisons(_reward(settings), rows[: settings.limit], report)
    _tell(report)
    if not scored:
        raise UserError(f"preferences={settings.preferences}: no row is left")
    write_rows(
        folder / SCORES,
        (
            {"row": row.comparison.place, "num_good": row.num_good, "scores": row.scores, "lengths": row.lengths}
            for row in scored
        ),
    )
    measured = report_on(scored, settings.source_column, settings.seed)
    print_reward_model(measured)
    metrics: dict[str, Any] = {}
    for name in ("accuracy", "above_length"):
        value = getattr(measured, name)
        metrics |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
    metrics |= {"longer_wins": measured.longer.value, "shorter_wins": measured.shorter.value}
    if measured.calibration is not None:
        metrics |= {"log_loss": measured.calibration.log_loss, "calibration_error": measured.calibration.error}
    details: dict[str, Any] = {
        name: {key: estimate.as_dict() for key, estimate in getattr(measured, name).items()}
        for name in ("by_source", "by_length", "by_difference")
    }
    if measured.calibration is not None:
        details["calibration"] = [one._asdict() for one in measured.calibration.bins]
    return {
        "metrics": metrics,
        "rows": {"evaluated": len(scored), "left out": len(report.skipped)},
        "reward_model": settings.reward_model,
        "preferences": settings.preferences,
        **details,
    }


def _models(settings: EvaluateSettings, folder: Path) -> dict[str, Any]:
    rows = _answers(settings, folder)
    verdicts: dict[str, list[float | None]] = {}
    details: dict[str, dict[str, Any]] = {}
    if settings.reward_model is not None:
        a, b = reward_scores(_reward(settings), rows, settings.reward_model)
        verdicts["reward"], details["reward"] = by_scores(a, b), _means(a, b)
    if settings.gold is not None:
        a, b = gold_scores(TextReward(settings.gold), rows)
        verdicts["gold"], details["gold"] = by_scores(a, b), _means(a, b)
    if settings.judge.model is not None:
        said = _judged(settings.judge, settings.judge.model, rows, Path(settings.answers or folder).expanduser())
        verdicts["judge"] = said.verdicts
        details["judge"] = {
            "order_disagreements": said.disagreements,
            "unreadable": said.unreadable,
            "first_wins": said.first_wins,
        }
    if settings.labels is not None:
        labelled = people_verdicts(settings.labels, rows)
        verdicts["people"] = labelled.verdicts
        details["people"] = {"both_bad": labelled.both_bad, "labels": labelled.labels}
    prompts = [row.prompt for row in rows]
    rates = {
        name: win_rate(found, [row.difference for row in rows], prompts, seed=settings.seed)
        for name, found in verdicts.items()
        if any(verdict is not None for verdict in found)
    }
    print_models(rows, rates, details)
    metrics: dict[str, Any] = {
        "length_a": sum(len(row.a.text) for row in rows) / len(rows),
        "length_b": sum(len(row.b.text) for row in rows) / len(rows),
    }
    for name, rate in rates.items():
        for kind, value in (("win_rate", rate.win_rate), ("length_controlled_win_rate", rate.length_controlled)):
            metrics |= {
                f"{name}_{kind}": value.value,
                f"{name}_{kind}_low": value.low,
                f"{name}_{kind}_high": value.high,
            }
    return {
        "metrics": metrics,
        "rows": {"evaluated": len(rows)},
        "judges": {name: as_dict(rate) | details.get(name, {}) for name, rate in rates.items()},
        "verdicts": verdicts,
    }


def _answers(settings: EvaluateSettings, folder: Path) -> list[Answered]:
    """Reads or draws the answers; new ones are also written as blind pairs, for people."""
    if settings.answers is not None:
        return read_answers(Path(settings.answers).expanduser())[: settings.limit]
    assert settings.a is not None
    assert settings.b is not None
    assert settings.prompts is not None
    report = Report()
    source = held_out_source(settings.prompts, settings.data.reading)
    records = list(records_of(source, need="prompt", report=report, on_error=settings.data.on_error))[: settings.limit]
    # Before anything is drawn, since an answer of one model is worth nothing without that of the other.
    for name in ("a", "b"):
        records = answerable(getattr(settings, name), name, records, settings.sampling, report)
    report.check(settings.prompts, settings.data.on_error)
    if not records:
        raise UserError(f"prompts={settings.prompts}: no prompt is left that both models can answer")
    _tell(report)
    sides = []
    drawn = {name: folder / f"answers.{name}.jsonl" for name in ("a", "b")}
    for name, file in drawn.items():
        speaker = load_speaker(getattr(settings, name), name, dtype=settings.dtype)
        with closing(Journal(file, f"hydra.run.dir={folder}")) as journal:
            sides.append(draw_answers(speaker, records, settings.sampling, settings.seed, journal))
        # The first model makes room for the second.
        del speaker
    rows = answered(records, *sides)
    write_answers(folder, rows)
    for file in drawn.values():
        file.unlink()
    pairs = write_blind_pairs(folder, rows, settings.seed)
    console.say(f"{pairs} blind pairs for lightning-rlhf label: {folder / BLIND_PAIRS}")
    return rows


def _judged(judge: JudgeSettings, model: str, rows: list[Answered], folder: Path) -> JudgeVerdicts:
    """Asks a chat model; its verdicts are kept beside the answers, so that they are paid for once."""
    client = remote_client(
        model,
        api_key_env=judge.api_key_env,
        settings=judge.settings,
        input_price=judge.input_price,
        output_price=judge.output_price,
        max_concurrency=judge.max_concurrency,
        group="judge",
    )
    client = replace(client, budget=Budget(judge.max_usd, judge.max_tokens, client.budget.prices))
    with closing(open_verdicts(folder / VERDICTS, client, f"answers={folder}")) as verdicts:
        said = judge_verdicts(client, judge.rubric or RUBRIC, rows, verdicts)
    console.say(f"{folder / VERDICTS}: {cost(client.budget)}")
    return said


def _tell(report: Report) -> None:
    """Says which rows are left out."""
    if report.skipped:
        console.say("\n".join([f"rows left out: {len(report.skipped)}", *kinds_of(report.skipped)]), "yellow")


def _reward(settings: EvaluateSettings) -> LoadedReward:
    assert settings.reward_model is not None
    reward = load_reward(settings.reward_model, settings.dtype, setting="reward_model")
    reward.net.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return reward


def _means(a: list[float], b: list[float]) -> dict[str, Any]:
    return {"mean_a": sum(a) / len(a), "mean_b": sum(b) / len(b), "scores_a": a, "scores_b": b}
