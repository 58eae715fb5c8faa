"""Answers that a judge scores or compares, and how well it agrees with people."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai_server import Fault, OpenAIServer

from lightning_rlhf.assembly.score_dataset import score_dataset
from lightning_rlhf.data.formats import read_records
from lightning_rlhf.errors import UserError

Judge = Callable[..., dict[str, Any]]
SETTINGS: dict[str, Any] = {
    "mode": "score",
    "scale": [0, 5],
    "human": None,
    "min_kappa": None,
    "templates": None,
    "max_usd": None,
    "max_tokens": None,
    "columns": None,
    "split": None,
    "config_name": None,
    "on_error": "raise",
}


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.fixture
def judge(llm: dict[str, Any], tmp_path: Path) -> Judge:
    """Judges rows, and returns what `result.json` says."""

    def run(rows: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
        data, output = write(tmp_path / "data.jsonl", rows), tmp_path / "out.jsonl"
        score_dataset(**{"llm": llm, "path": data, "output": str(output), **SETTINGS, **settings})
        return json.loads((tmp_path / "out.result.json").read_text())

    return run


def stars(messages: list[dict[str, str]]) -> str:
    """A judge that counts the stars of an answer, and cannot grade one with a question mark."""
    answer = messages[1]["content"].partition("<answer>")[2]
    return "I cannot." if "?" in answer else f"Fine.\nScore: {answer.count('*')}"


ANSWERS = [
    {"prompt": "One", "completion": "***", "source": "web"},
    {"prompt": "Two", "completion": "???"},
    {"prompt": "Three", "completion": "*", "score": 4.5},
    {"prompt": [{"role": "user", "content": "Four"}], "completion": "****"},
]


def test_only_answers_without_a_score_are_scored_and_none_is_made_up(
    server: OpenAIServer, judge: Judge, tmp_path: Path
) -> None:
    server.say = stars
    result = judge(ANSWERS)
    rows = rows_of(tmp_path / "out.jsonl")
    assert [(row["prompt"][0]["content"], row["score"]) for row in rows] == [("One", 3), ("Three", 4.5), ("Four", 4)]
    assert rows[0]["source"] == "web"
    metrics = result["metrics"]
    assert (metrics["had_score"], metrics["scored"], metrics["unclear"]) == (1, 2, 1)
    # The answer that it cannot grade was asked about twice, and the one with a score not at all.
    assert len(server.requests) == 4
    assert [row.score for row in read_records(str(tmp_path / "out.jsonl"), "score").rows] == [3, 4.5, 4]


def test_the_same_command_asks_nothing_twice(server: OpenAIServer, judge: Judge, tmp_path: Path) -> None:
    server.say = stars
    judge(ANSWERS[:1])
    result = judge(ANSWERS)
    assert result["metrics"]["scored"] == 2
    assert len(server.requests) == 4
    # Equal questions are asked once.
    judge([*ANSWERS, {"prompt": "One", "completion": "***"}])
    assert len(server.requests) == 4
    assert len(rows_of(tmp_path / "out.jsonl")) == 4


def test_other_criteria_are_another_question(server: OpenAIServer, judge: Judge, tmp_path: Path) -> None:
    server.say = stars
    judge(ANSWERS[:1])
    templates = tmp_path / "templates.yaml"
    templates.write_text("reward: how many stars there are\n")
    judge(ANSWERS[:1], templates=str(templates))
    assert "What counts: how many stars there are" in server.requests[1]["messages"][0]["content"]


def test_a_spent_budget_keeps_the_verdicts(server: OpenAIServer, judge: Judge, tmp_path: Path) -> None:
    server.say = stars
    rows = [{"prompt": f"{number}", "completion": "*" * (number % 5) + "x"} for number in range(10)]
    result = judge(rows, max_tokens=600)
    scored = result["metrics"]["scored"]
    assert result["status"] == "stopped"
    assert 0 < scored < 10
    assert result["metrics"]["tokens"] <= 600
    assert len(rows_of(tmp_path / "out.jsonl")) == scored
    assert judge(rows)["metrics"]["scored"] == 10
    assert len(server.requests) == 10


def test_an_error_of_the_judge_leaves_no_output(server: OpenAIServer, judge: Judge, tmp_path: Path) -> None:
    server.faults = [Fault(401, '{"error": {"message": "key expired"}}')] * 4
    with pytest.raises(UserError, match="key expired"):
        judge(ANSWERS)
    assert not (tmp_path / "out.jsonl").exists()


def better(messages: list[dict[str, str]]) -> str:
    """A judge that counts stars, takes the first answer if it sees a 1, and cannot compare question marks."""
    first, second = re.findall(r"<answer_[AB]>(.*?)</answer_[AB]>", messages[1]["content"], re.DOTALL)
    if "?" in first + second:
        return "Hm."
    if "1" in first + second:
        return "Better: A"
    side = {1: "A", -1: "B", 0: "tie"}[(first.count("*") > second.count("*")) - (first.count("*") < second.count("*"))]
    return f"Better: {side}"


PAIRS = [
    {"prompt": "p1", "chosen": "*", "rejected": "**"},
    {"prompt": "p2", "chosen": "**a", "rejected": "b", "source": "web"},
    {"prompt": "p3", "chosen": "*c", "rejected": "*d"},
    {"prompt": "p4", "chosen": "1", "rejected": "**1"},
    {"prompt": "p5", "chosen": "?", "rejected": "x"},
]


def test_pairs_are_decided_in_both_orders_and_the_others_are_kept_as_undecided(
    server: OpenAIServer, judge: Judge, tmp_path: Path
) -> None:
    server.say = better
    metrics = judge(PAIRS, mode="compare")["metrics"]
    rows = rows_of(tmp_path / "out.jsonl")
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("**", "*"), ("**a", "b")]
    assert rows[1]["source"] == "web"
    tie, contradiction = rows_of(tmp_path / "out.undecided.jsonl")
    assert (tie["first"], tie["second"], tie["forward"], tie["backward"]) == ("*c", "*d", "tie", "tie")
    assert (contradiction["first"], contradiction["forward"], contradiction["backward"]) == ("1", "first", "second")
    counts = {name: metrics[name] for name in ("decided", "tied", "contradictory", "unclear")}
    assert counts == {"decided": 2, "tied": 1, "contradictory": 1, "unclear": 1}
    assert len(read_records(str(tmp_path / "out.jsonl"), "pair").rows) == 2


def test_answers_to_equal_prompts_make_pairs(server: OpenAIServer, judge: Judge, tmp_path: Path) -> None:
    server.say = better
    rows = [{"prompt": "p", "completion": text} for text in ("*", "**", "**", "***")]
    judge([*rows, {"prompt": "q", "completion": "alone"}], mode="compare")
    pairs = [(row["chosen"], row["rejected"]) for row in rows_of(tmp_path / "out.jsonl")]
    assert pairs == [("**", "*"), ("***", "**")]
    with pytest.raises(UserError, match="no prompt has two different answers to compare"):
        judge(rows[:1], mode="compare")


def test_the_agreement_with_scores_of_people_is_shown_before_the_data_are_judged(
    server: OpenAIServer, judge: Judge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.say = stars
    people = [{"prompt": "h", "completion": "*" * n + "x" * m, "score": n} for n in range(6) for m in (1, 2)]
    people[0]["score"] = 1
    result = judge(ANSWERS[:1], human=write(tmp_path / "human.jsonl", people))
    # Eleven of twelve scores are equal.
    assert result["agreement"]["rows"] == 12
    assert result["agreement"]["accuracy"] == pytest.approx(11 / 12)
    assert 0.9 < result["agreement"]["kappa"] < 1
    assert "agreement with people on 12 rows: accuracy 0.917" in capsys.readouterr().out
    shown = [request["messages"][1]["content"] for request in server.requests]
    assert "One" in shown[-1]
    assert not any("One" in text for text in shown[:12])


def test_a_judge_that_agrees_too_little_is_not_used(server: OpenAIServer, judge: Judge, tmp_path: Path) -> None:
    server.say = better
    # The judge prefers stars, and these people do not.
    people = [{"prompt": f"h{n}", "chosen": f"x{n}", "rejected": f"*{n}".replace("1", "2")} for n in range(20)]
    human = write(tmp_path / "human.jsonl", [row for row in people if "1" not in row["chosen"]])
    with pytest.raises(UserError, match=r"^min_kappa=0.4: the judge agrees too little .*\(kappa -?\d"):
        judge(PAIRS, mode="compare", human=human, min_kappa=0.4)
    with pytest.raises(UserError, match="^min_kappa=0.4: name the file that people have labelled as human=FILE$"):
        judge(PAIRS, mode="compare", min_kappa=0.4)
    with pytest.raises(UserError, match=r"^scale=\[1, 7\]: mode=compare gives no scores: leave it out$"):
        judge(PAIRS, mode="compare", scale=[1, 7])
    assert not (tmp_path / "out.jsonl").exists()
    assert not any("p1" in request["messages"][1]["content"] for request in server.requests)


def test_a_budget_that_ends_before_the_agreement_is_known_is_an_error(
    server: OpenAIServer, judge: Judge, tmp_path: Path
) -> None:
    server.say = stars
    people = [{"prompt": "h", "completion": "*" * n, "score": n} for n in range(1, 6)]
    human = write(tmp_path / "human.jsonl", people)
    with pytest.raises(UserError, match="^human: max_tokens=1 would be exceeded by the next request, before the judge"):
        judge(ANSWERS, human=human, max_tokens=1)
    assert not (tmp_path / "out.jsonl").exists()


def test_agreement_on_pairs_does_not_depend_on_where_people_put_the_better_answer(
    server: OpenAIServer, judge: Judge, tmp_path: Path
) -> None:
    server.say = better
    people = [{"prompt": "h", "chosen": f"**{letter}", "rejected": letter * 2} for letter in "abcdefghijklmnop"]
    human = write(tmp_path / "human.jsonl", people)
    agreed = judge(PAIRS[:1], mode="compare", human=human)["agreement"]
    # If people's choice were always the first answer, kappa would be undefined.
    assert (agreed["accuracy"], agreed["kappa"]) == (1.0, 1.0)


def test_a_score_of_people_off_the_scale_is_an_error(judge: Judge, tmp_path: Path) -> None:
    human = write(tmp_path / "human.jsonl", [{"prompt": "h", "completion": "x", "score": 9}])
    with pytest.raises(UserError, match="^human: the score 9 is not on the scale from 0 to 5"):
        judge(ANSWERS, human=human)


def test_a_question_about_one_answer_cannot_compare_two(judge: Judge, tmp_path: Path) -> None:
    templates = tmp_path / "templates.yaml"
    templates.write_text("reward: 'How good is {completion}?'\n")
    with pytest.raises(UserError, match="^templates=.*: reward is a question about one answer"):
        judge(PAIRS, mode="compare", templates=str(templates))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output": "out.csv"}, "output=out.csv: its name must end in .jsonl"),
        ({"scale": [5, 0]}, r"scale=\[5, 0\]: the first number must be less"),
        ({"scale": [1, 2, 3]}, r"scale=\[1, 2, 3\]: expected the lowest and the highest score"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], message: str, judge: Judge) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        judge(ANSWERS, **settings)
