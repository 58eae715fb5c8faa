"""The page that compares runs: its table, its answers, and that it needs nothing but itself."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from run_folders import held_out, write_run

from lightning_rlhf.report import write_report
from lightning_rlhf.report.comparison import compare
from lightning_rlhf.report.comparison.answers import side_by_side
from lightning_rlhf.report.comparison.entry import entries, short_names
from lightning_rlhf.report.comparison.table import columns
from lightning_rlhf.report.read import read_run


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Three runs: one with a lower KL, one that failed, and one that gives other answers."""
    older = [held_out(0, 2, "older", score=9.0, gold=0.5), held_out(1, 2, "older", score=9.0, gold=9.0)]
    answers = [[*older, held_out(0, 4, "yes", score=1.0, gold=1.0), held_out(1, 4, "same", score=1.0, gold=0.0)]]
    answers += [[], [held_out(0, 8, "no", score=0.5, gold=0.0), held_out(1, 8, "same", score=1.5, gold=0.0)]]
    results: list[dict[str, Any]] = [
        {"metrics": {"gold_rate": 0.5, "kl": 2.0}, "seconds": 90.0},
        {"metrics": {}, "status": "failed", "seconds": None},
        {"metrics": {"gold_rate": 0.25, "kl": 10.5}, "seconds": 30.0},
    ]
    for number, (result, samples) in enumerate(zip(results, answers, strict=True)):
        config = {"seed": 1, "ppo": {"module": {"lr": 10.0 ** -(number + 2)}}}
        write_run(tmp_path / str(number), samples=samples, config=config, **result)
    write_report(tmp_path / "0")
    return tmp_path


def page_of(sweep: Path) -> str:
    return compare([read_run(sweep / str(number)) for number in range(3)], sweep / "comparison.html")


def text_of(html: str) -> str:
    return " ".join(unescape(re.sub(r"<(style|script).*?</\1>|<[^>]+>", " ", html, flags=re.DOTALL)).split())


def test_a_row_has_the_settings_that_differ_and_the_numbers_of_its_run(sweep: Path) -> None:
    found = entries([read_run(sweep / str(number)) for number in range(3)], sweep / "comparison.html")
    table = {column.title: [cell.text for cell in column.cells] for column in columns(found, {"lr": ["1", "2", "3"]})}
    assert table == {
        "Status": ["finished", "failed", "finished"],
        "lr": ["1", "2", "3"],
        "Time": ["1 min 30 s", "", "30 s"],
        "Gold rate": ["50%", "", "25%"],
        "KL": ["2", "", "10.5"],
    }
    orders = {column.title: [cell.order for cell in column.cells] for column in columns(found, {"lr": ["1", "2", "3"]})}
    # Cells are sorted by the values behind them, not by their texts, and an empty cell has no place in the order.
    assert orders["KL"] == [2.0, "", 10.5]
    assert orders["Time"] == [90.0, "", 30.0]
    assert orders["lr"] == [1.0, 2.0, 3.0]


def test_a_number_with_more_digits_than_anyone_reads_is_rounded_in_the_table_and_sorted_as_it_is(sweep: Path) -> None:
    found = entries([read_run(sweep / str(number)) for number in range(3)], sweep / "comparison.html")
    chosen = ["0.00031415926", "100000", "0.00031419999"]
    (column,) = [column for column in columns(found, {"lr": chosen}) if column.title == "lr"]
    assert [cell.text for cell in column.cells] == ["0.0003142", "100000", "0.0003142"]
    assert [cell.order for cell in column.cells] == [0.00031415926, 100000.0, 0.00031419999]


def test_a_metric_says_its_stage_if_runs_have_several_stages(tmp_path: Path) -> None:
    for name, rate in (("sft", 0.5), ("ppo", 0.75)):
        write_run(tmp_path / "run" / name, name, metrics={"gold_rate": rate})
    (entry,) = entries([read_run(tmp_path / "run")], tmp_path / "comparison.html")
    assert {key: (metric.label, metric.shown) for key, metric in entry.metrics.items()} == {
        "sft.gold_rate": ("Gold rate, SFT", "50%"),
        "ppo.gold_rate": ("Gold rate, PPO", "75%"),
    }


def test_runs_are_named_by_what_tells_them_apart() -> None:
    assert short_names([Path("/a/b/1"), Path("/a/b/2/x")]) == ["1", "2/x"]
    assert short_names([Path("/a/b/1")]) == ["1"]


def test_prompts_whose_answers_differ_most_in_gold_come_first_with_the_newest_answer_of_each_run(sweep: Path) -> None:
    found = side_by_side(entries([read_run(sweep / str(number)) for number in (2, 1, 0)], sweep / "x.html"))
    first, second = found["prompts"]
    assert first["messages"] == [["user", "Prompt 0?"]]
    assert [answer and answer["response"] for answer in first["answers"]] == ["no", None, "yes"]
    assert second["messages"] == [["user", "Prompt 1?"]]
    assert second["answers"][0]["measures"] == {"score": (1.5, "1.5"), "gold": (0.0, "0")}
    assert found["total"] == 2


def test_a_prompt_that_one_run_alone_has_answered_is_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path / "a", samples=[held_out(0, 1, "x"), held_out(1, 1, "y")])
    write_run(tmp_path / "b", samples=[held_out(1, 3, "z")])
    found = side_by_side(entries([read_run(tmp_path / name) for name in "ab"], tmp_path / "x.html"))
    assert [prompt["messages"] for prompt in found["prompts"]] == [[["user", "Prompt 1?"]]]


def test_the_page_names_each_run_links_to_its_card_and_shows_all_its_numbers(sweep: Path) -> None:
    html = page_of(sweep)
    text = text_of(html)
    assert "3 runs 2 finished 1 failed" in text
    assert '<a href="./0/report.html">0</a>' in html
    assert '<a href="./1/report.html">' not in html
    assert "0 finished 0.01 1 min 30 s 50% 2" in text
    assert "ppo.module.lr 0.01 0 0.001 1 0.0001 2" in text
    assert html.count('class="run"') == 3
    assert json.loads(re.findall(r'id="answers-data">(.*?)</script>', html)[0])["runs"] == ["0", "1", "2"]


def test_what_a_model_wrote_cannot_leave_its_place_on_the_page(tmp_path: Path) -> None:
    attack = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    for name in "ab":
        write_run(tmp_path / name, samples=[held_out(0, 1, attack, attack)], config={"note": attack + name})
    html = compare([read_run(tmp_path / name) for name in "ab"], tmp_path / "x.html")
    assert "<script>alert" not in html
    assert "<img" not in html
    (data,) = re.findall(r'id="answers-data">(.*?)</script>', html)
    assert json.loads(data)["prompts"][0]["answers"][0]["response"] == attack


def test_the_page_needs_nothing_but_itself(sweep: Path) -> None:
    assert re.findall(r'src="|url\((?!#)|@import|<link', page_of(sweep)) == []


def test_two_runs_without_any_difference_still_make_a_page(tmp_path: Path) -> None:
    for name in "ab":
        write_run(tmp_path / name, metrics={"score": 1.0})
    text = text_of(compare([read_run(tmp_path / name) for name in "ab"], tmp_path / "x.html"))
    assert "2 runs" in text
    assert "What differs" not in text
