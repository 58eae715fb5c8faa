"""Lets a chat model judge the answers of a data set."""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from lightning_rlhf.assembly.chat_model import client_with_budget
from lightning_rlhf.assembly.setting_names import without_group
from lightning_rlhf.chat_models.client import ChatClient
from lightning_rlhf.chat_models.grading import Grading
from lightning_rlhf.console import console
from lightning_rlhf.errors import UserError
from lightning_rlhf.saving import write_json
from lightning_rlhf.synthesis.agreement import Agreement, agreement_of_pairs, agreement_of_scores
from lightning_rlhf.synthesis.journal import Journal
from lightning_rlhf.synthesis.progress import cost
from lightning_rlhf.synthesis.templates import read_templates
from lightning_rlhf.synthesis.verdicts import open_verdicts

_TOLD = {
    "had_score": "answers that keep their score",
    "scored": "answers that the judge has scored",
    "decided": "pairs with a better answer in both orders",
    "tied": "pairs that tie in both orders, kept as undecided",
    "contradictory": "pairs whose orders contradict each other, kept as undecided",
    "unclear": "left out without a clear verdict in two attempts",
}


def score_dataset(
    llm: dict[str, Any],
    path: str,
    output: str,
    mode: Literal["score", "compare"],
    scale: list[float],
    human: str | None,
    min_kappa: float | None,
    templates: str | None,
    max_usd: float | None,
    max_tokens: int | None,
    columns: dict[str, str | None] | None,
    split: str | None,
    config_name: str | None,
    on_error: Literal["raise", "skip"],
) -> Path:
    """Scores answers, or compares pairs of them.

    Args:
        llm: The node of the group `llm`.
        path: File, folder or name of the data.
        output: JSONL file for the judged rows.
        mode: `score` for a score of each answer, `compare` for the better one of two answers.
        scale: The lowest and the highest score.
        human: File that people have labelled; None for none.
        min_kappa: The lowest Cohen's κ with which the judge is used; None for any.
        templates: File with templates, as `read_templates` takes it.
        max_usd: What all requests may cost, in US dollars.
        max_tokens: What all requests may use, in tokens.
        columns: Names of the fields, as `Reading` takes them.
        split: Split to read.
        config_name: Configuration of a hub data set.
        on_error: Whether rows that cannot be used raise an error, or are skipped.

    Returns:
        The file of the judged rows; `result.json` with the same beginning lies beside it.

    Raises:
        UserError: If a setting or the data are wrong, the model fails, or the judge agrees too little with people.
    """
    start = time.perf_counter()
    file = Path(output).expanduser()
    if file.suffix != ".jsonl":
        raise UserError(f"output={output}: its name must end in .jsonl")
    if len(scale) != 2:
        raise UserError(f"scale={scale}: expected the lowest and the highest score, such as [0, 5]")
    if min_kappa is not None and human is None:
        raise UserError(f"min_kappa={min_kappa}: name the file that people have labelled as human=FILE")
    grading = Grading(read_templates(templates).reward, *scale).checked()
    if mode == "compare" and (grading.low, grading.high) != (Grading().low, Grading().high):
        raise UserError(f"scale={scale}: mode=compare gives no scores: leave it out")
    if mode == "compare" and grading.is_question:
        raise UserError(
            f"templates={templates}: reward is a question about one answer, and mode=compare shows two; write criteria "
            "without {user_input} and {completion}"
        )
    # Reading data imports torch, which takes seconds.
    from lightning_rlhf.data.splits import Reading
    from lightning_rlhf.synthesis.judged_rows import read_answers, read_labelled_pairs, read_pairs

    labelled: Sequence[Any] = ()
    with without_group():
        reading = Reading(columns=columns, split=split, config_name=config_name)
        read = (read_answers if mode == "score" else read_pairs)(path, reading, on_error)
        if human is not None:
            whole = Reading(columns=columns)
            labelled = (
                read_answers(human, whole, on_error, scored=True)
                if mode == "score"
                else read_labelled_pairs(human, whole, on_error)
            ).rows
    client = client_with_budget(llm, max_usd, max_tokens)
    agreed: Agreement | None = None
    with closing(open_verdicts(file.with_suffix(".verdicts.jsonl"), client, f"output={output}")) as verdicts:
        if labelled:
            agreed = _agreement(client, grading, mode, labelled, verdicts)
            console.say(agreed.told())
            _check_kappa(agreed, min_kappa)
        counts = _judge(client, grading, mode, read.rows, file, verdicts)
    if read.skipped:
        console.say(f"rows that cannot be used: {len(read.skipped):,}, such as {read.skipped[0]}")
    for name, count in counts.items():
        if name != "stopped" and count:
            console.say(f"{_TOLD[name]}: {count:,}")
    if counts["stopped"] is not None:
        console.say(f"stopped: {counts['stopped']}; the same command with a larger budget goes on")
    console.say(f"{file}: {cost(client.budget)}")
    record = {
        "stage": "score-dataset",
        "status": "finished" if counts["stopped"] is None else "stopped",
        "metrics": {
            **{name: count for name, count in counts.items() if name != "stopped"},
            "skipped": len(read.skipped),
            "tokens": client.budget.used.tokens,
            "usd": client.budget.usd,
        },
        "agreement": None if agreed is None else agreed._asdict(),
        "seconds": round(time.perf_counter() - start, 3),
    }
    write_json(file.with_suffix(".result.json"), record)
    return file


def _judge(
    client: ChatClient, grading: Grading, mode: str, rows: Sequence[Any], file: Path, verdicts: Journal
) -> dict[str, Any]:
    from lightning_rlhf.synthesis.preferring import prefer
    from lightning_rlhf.synthesis.scoring import score_answers

    if mode == "score":
        return score_answers(client, grading, rows, file, verdicts)._asdict()
    undecided = file.with_suffix(".undecided.jsonl")
    return prefer(client, grading.rubric, rows, file, undecided, verdicts)._asdict()


def _agreement(
    client: ChatClient, grading: Grading, mode: str, labelled: Sequence[Any], verdicts: Journal
) -> Agreement:
    if mode == "score":
        return agreement_of_scores(client, grading, labelled, verdicts)
    return agreement_of_pairs(client, grading.rubric, labelled, verdicts)


def _check_kappa(agreed: Agreement, min_kappa: float | None) -> None:
    # Written so that an undefined agreement does not pass.
    if min_kappa is not None and not agreed.kappa >= min_kappa:
        raise UserError(
            f"min_kappa={min_kappa}: the judge agrees too little with people (kappa {agreed.kappa:.3f}); change the "
            "template reward or the model, or accept a lower min_kappa"
        )
