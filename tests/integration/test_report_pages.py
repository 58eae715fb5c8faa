"""The pages about runs in a real browser: the sample browser, the table that sorts, the picture, and a followed run."""

import csv
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from run_folders import held_out, rollout, write_run
from support import address_of, started

from lightning_rlhf.report import write_report
from lightning_rlhf.report.comparison import compare
from lightning_rlhf.report.read import read_run

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page. The test fails if a script on it raises an error, or the browser refuses to run something."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(10_000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    yield page
    context.close()
    # A test may end the server, and the pages have no icon.
    assert not [text for text in problems if "ERR_CONNECTION" not in text and "favicon" not in text]


@pytest.fixture
def card(tmp_path: Path) -> str:
    """The address of the card of a pipeline: rows 0 and 1 were answered three times, and there are three rollouts."""
    sft = [held_out(row, 0, f"the cat sat {row}", gold=0.0, length=4) for row in (0, 1)]
    later = [
        held_out(row, at, f"the {word} sat {row}", score=at + row, kl=at / 2, gold=float(row), length=4 + at)
        for at, word in ((2, "dog"), (4, "dog <b>never</b>"))
        for row in (0, 1)
    ]
    later += [rollout(at, f"rolled {at}", score=10.0 - at, length=3) for at in (1, 2, 3)]
    write_run(tmp_path, "pipeline")
    write_run(tmp_path / "sft", "sft", samples=sft)
    write_run(tmp_path / "ppo", "ppo", samples=later)
    return write_report(tmp_path).as_uri()


def texts(page: Any, selector: str) -> list[str]:
    return [" ".join(text.split()) for text in page.locator(selector).all_inner_texts()]


def answers(page: Any) -> list[str]:
    return texts(page, "#samples .list .answer .text")


def status(page: Any, section: str = "#samples") -> str:
    return str(page.locator(f"{section} [role=status]").inner_text())


def test_words_find_samples_by_prompt_and_answer(page: Any, card: str) -> None:
    page.goto(card)
    assert status(page) == "9 of 9 samples"
    page.fill("#samples [name=q]", "DOG 1")
    # Both words must occur, in the prompt or in the answer: "Prompt 1?" and "the dog sat 1".
    # The newest come first, and the prompt is not repeated for the older answer to it.
    assert answers(page) == ["the dog <b>never</b> sat 1", "the dog sat 1"]
    assert texts(page, "#samples .list .turn .text") == ["Prompt 1?"]
    page.fill("#samples [name=q]", "rollout?")
    assert status(page) == "3 of 9 samples"


def test_samples_are_sorted_by_a_measure_and_those_without_it_come_last(page: Any, card: str) -> None:
    page.goto(card)
    page.select_option("#samples [name=sort]", "score-")
    # The scores are 9, 8 and 7 of rollouts, 5, 4, 3 and 2 of answers; SFT has none.
    expected = ["rolled 1", "rolled 2", "rolled 3", "the dog <b>never</b> sat 1", "the dog <b>never</b> sat 0"]
    assert answers(page)[:5] == expected
    assert answers(page)[-2:] == ["the cat sat 0", "the cat sat 1"]
    page.select_option("#samples [name=sort]", "score+")
    assert answers(page)[0] == "the dog sat 0"
    assert answers(page)[-2:] == ["the cat sat 0", "the cat sat 1"]
    page.select_option("#samples [name=sort]", "length-")
    assert answers(page)[:2] == ["the dog <b>never</b> sat 0", "the dog <b>never</b> sat 1"]


def test_ranges_and_choices_filter_together_and_the_address_keeps_the_view(page: Any, card: str) -> None:
    page.goto(card)
    page.fill("#samples [name=kl_min]", "0.5")
    page.fill("#samples [name=score_max]", "3")
    assert answers(page) == ["the dog sat 0", "the dog sat 1"]
    page.select_option("#samples [name=stage]", "1")
    page.select_option("#samples [name=iteration]", "2")
    page.fill("#samples [name=score_max]", "2.5")
    assert answers(page) == ["the dog sat 0"]
    page.reload()
    assert answers(page) == ["the dog sat 0"]
    assert page.input_value("#samples [name=score_max]") == "2.5"
    page.click("#samples [type=reset]")
    assert status(page) == "9 of 9 samples"


def test_the_answers_to_one_prompt_are_shown_through_the_stages_with_the_changed_words(page: Any, card: str) -> None:
    page.goto(card)
    page.fill("#samples [name=q]", "sat 0")
    page.click("#samples .answer button >> nth=0")
    assert texts(page, "#samples .list .which") == [
        "SFT · epoch 0 · held-out answer",
        "PPO · iteration 2 · held-out answer",
        "PPO · iteration 4 · held-out answer",
    ]
    assert texts(page, "#samples .list del") == ["cat"]
    assert texts(page, "#samples .list ins") == ["dog", "<b>never</b>"]
    assert status(page) == "3 answers to one prompt; changed words are marked"
    page.click("#samples .back")
    assert status(page) == "3 of 9 samples"


def test_text_of_a_model_stays_text(page: Any, card: str) -> None:
    page.goto(card)
    assert page.locator("#samples .text b").count() == 0


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Three runs with a learning rate of 0.1, 0.2 and 0.3 whose score falls, and one that has failed."""
    results: list[dict[str, Any]] = [{"metrics": {"score": score}} for score in (10.5, 9.25, 2.0)]
    results.append({"status": "failed"})
    for number, result in enumerate(results):
        config = {"ppo": {"lr": (number + 1) / 10}}
        samples = [held_out(0, 1, f"answer of {number}", score=float(number))] if number < 3 else []
        write_run(tmp_path / str(number), config=config, samples=samples, **result)
    return tmp_path


def show_comparison(page: Any, sweep: Path) -> None:
    file = sweep / "comparison.html"
    file.write_text(compare([read_run(sweep / str(number)) for number in range(4)], file), encoding="utf-8")
    page.goto(file.as_uri())


def test_the_table_sorts_by_numbers_and_leaves_empty_cells_at_the_end(page: Any, sweep: Path) -> None:
    show_comparison(page, sweep)
    names = ".sortable tbody td:first-child"
    assert texts(page, names) == ["0", "1", "2", "3"]
    page.click(".sortable th >> text=Score")
    # As texts, 9.25 would come before 10.5.
    assert texts(page, names) == ["0", "1", "2", "3"]
    page.click(".sortable th >> text=Score")
    assert texts(page, names) == ["2", "1", "0", "3"]
    assert page.locator("th[aria-sort=ascending]").inner_text() == "Score"


def drag_along_the_first_axis(page: Any, start: float, end: float) -> None:
    """Drags between two places, which are shares of the height of the axis from its upper end."""
    axis = page.locator(".axis .grip").first
    axis.scroll_into_view_if_needed()
    box = axis.bounding_box()
    x, height = box["x"] + box["width"] / 2, box["height"]
    page.mouse.move(x, box["y"] + start * height)
    page.mouse.down()
    page.mouse.move(x, box["y"] + end * height, steps=4)
    page.mouse.up()


def test_a_range_of_an_axis_keeps_the_runs_in_it_in_the_picture_and_in_the_table(page: Any, sweep: Path) -> None:
    show_comparison(page, sweep)
    # The lowest third of the axis of the learning rate has the run with 0.1 alone, of 0.1, 0.2, 0.3 and 0.4.
    drag_along_the_first_axis(page, 0.98, 0.75)
    assert page.locator(".sortable tr.left-out").count() == 3
    assert page.locator("path.run.left-out").count() == 3
    assert page.locator(".sortable tr[data-run='0'].left-out").count() == 0
    page.click("#picture button")
    assert page.locator(".left-out").count() == 0


def test_the_address_keeps_the_view_of_a_comparison(page: Any, sweep: Path) -> None:
    show_comparison(page, sweep)
    page.click(".sortable th >> text=Score")
    page.click(".sortable th >> text=Score")
    drag_along_the_first_axis(page, 0.98, 0.75)
    page.click("#answers summary")
    page.uncheck("#answers [name=run][value='1']")
    page.fill("#answers [name=q]", "of 2")
    page.reload()
    assert texts(page, ".sortable tbody td:first-child") == ["2", "1", "0", "3"]
    assert page.locator("path.run.left-out").count() == 3
    assert float(page.locator(".axis .brush").first.get_attribute("height")) > 0
    assert page.input_value("#answers [name=q]") == "of 2"
    assert status(page, "#answers") == "1 of 1 prompts, 3 of 4 runs"
    page.click("#picture button")
    page.reload()
    assert page.locator(".left-out").count() == 0


def test_the_colour_of_a_line_follows_the_metric(page: Any, sweep: Path) -> None:
    show_comparison(page, sweep)
    strengths = page.locator("path.run").evaluate_all(
        "paths => paths.map((p) => p.style.getPropertyValue('--strength'))"
    )
    # 15% of the lowest score and 100% of the highest; (9.25 - 2) / 8.5 = 0.853 of the way between them.
    assert [float(text.rstrip("%")) for text in strengths] == pytest.approx([100, 15 + 85 * 7.25 / 8.5, 15, 8])


def test_answers_of_the_chosen_runs_stand_side_by_side(page: Any, sweep: Path) -> None:
    show_comparison(page, sweep)
    assert texts(page, "#answers .side .text") == ["answer of 0", "answer of 1", "answer of 2"]
    assert texts(page, "#answers .side .empty") == ["not answered"]
    assert texts(page, "#answers .side .about") == ["lr 0.1", "lr 0.2", "lr 0.3", "lr 0.4"]
    page.click("#answers summary")
    page.uncheck("#answers [name=run][value='1']")
    assert texts(page, "#answers .side .text") == ["answer of 0", "answer of 2"]
    assert status(page, "#answers") == "1 of 1 prompts, 3 of 4 runs"


@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_is_wider_than_its_window(width: int, page: Any, card: str, sweep: Path) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    for show in (lambda: page.goto(card), lambda: show_comparison(page, sweep)):
        show()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@contextmanager
def following(run: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process of `report follow=true` with its address. It asks for news every 0.2 seconds."""
    process = started(run.parent, "report", f"runs={run}", "follow=true", "port=0", "every=0.2")
    try:
        yield process, address_of(process)[0]
    finally:
        process.kill()
        process.wait()


def write_news(run: Path, perplexity: float) -> None:
    record = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**record, "metrics": {"perplexity": perplexity}}))


def test_a_followed_card_shows_what_the_run_writes_later(page: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "sft", metrics={"perplexity": 8.0}, status="running")
    with following(run) as (process, address):
        page.goto(address)
        assert "perplexity of 8 on" in page.inner_text(".lede")
        assert page.inner_text(".follow") == "This page follows the run."
        with (run / "metrics.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["epoch", "step", "train/loss"], [0, 0, 2.0], [0, 1, 1.0]])
        write_news(run, 3.0)
        page.wait_for_selector(".lede:has-text('perplexity of 3 on')")
        process.terminate()
        assert process.wait(20) == 0
        page.wait_for_selector(".follow:has-text('no longer updated')")


def test_news_do_not_disturb_a_reader(page: Any, tmp_path: Path) -> None:
    samples = [held_out(row, 0, f"answer {row}") for row in range(60)]
    run = write_run(tmp_path / "run", "sft", metrics={"perplexity": 8.0}, samples=samples, config={"seed": 1})
    with following(run) as (_, address):
        page.goto(address)
        page.click("summary >> text=Configuration")
        page.click("#samples .more")
        page.fill("#samples [name=q]", "answer")
        page.click("#samples .more")
        assert len(answers(page)) == 24
        page.locator("#samples [name=q]").press("End")
        page.keyboard.press("ArrowLeft")
        page.evaluate("scrollTo(0, 900)")
        write_news(run, 3.0)
        page.wait_for_selector(".lede:has-text('perplexity of 3 on')")
        assert page.evaluate("scrollY") == 900
        assert len(answers(page)) == 24
        assert page.locator("details[open] summary").all_inner_texts() == ["Configuration"]
        page.keyboard.type("x")
        assert page.input_value("#samples [name=q]") == "answexr"
        # A reader may be about to copy what is selected.
        page.locator(".lede").select_text()
        write_news(run, 2.0)
        page.wait_for_selector(".follow:has-text('once no text is selected')")
        assert page.evaluate("getSelection().toString()").strip() == page.inner_text(".lede")
        page.evaluate("getSelection().empty()")
        page.wait_for_selector(".lede:has-text('perplexity of 2 on')")
