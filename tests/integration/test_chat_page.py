"""The chat page in a browser: two trained models side by side, driven as a person would."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from chatting import bodies, opened, say
from support import serving

from lightning_rlhf import ModelSource, Renderer, export_model, load_causal_lm, load_scalar_model

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as program:
        try:
            browser = program.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser starts: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def models(source: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    # The template of these exports accepts a system prompt.
    renderer = Renderer(source.load_tokenizer(), "plain")
    for name, seed in (("ppo", 1), ("sft", 2)):
        export_model(load_causal_lm(replace(source, seed=seed)), renderer, folder / name, {})
    torch.manual_seed(1)
    export_model(load_scalar_model(source, "normal"), renderer, folder / "reward", {})
    return folder


@pytest.fixture(scope="module")
def served(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Starts the command, and yields the address of the page and the folder of the thumbs."""
    folder = tmp_path_factory.mktemp("served")
    words = [f"model_dir={models / 'ppo'}", f"against={models / 'sft'}", f"reward_model={models / 'reward'}", "seed=1"]
    words += ["chat.web=true", "chat.port=0", "chat.feedback_dir=thumbs", "sampling.max_new_tokens=12"]
    with serving(folder, "chat", *words) as address:
        yield address, folder / "thumbs"


@pytest.fixture
def page(browser: Any, served: tuple[str, Path]) -> Iterator[Any]:
    with opened(browser, served[0]) as page:
        yield page


def test_two_models_answer_side_by_side_with_the_score_under_each(page: Any, models: Path) -> None:
    say(page, "My kettle leaks.")
    say(page, "And my door is stuck.")
    assert [bodies(page, turn)[0] == bodies(page, turn)[1] for turn in (0, 1)] == [False, False]
    boxes = [page.locator(".answer").nth(n).bounding_box() for n in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    assert boxes[0]["height"] == boxes[1]["height"]
    assert page.locator("#heads").inner_text().split() == [str(models / "ppo"), str(models / "sft")]
    assert re.fullmatch(r"score -?\d+\.\d\d", page.locator(".score").first.inner_text())


def test_what_is_typed_before_the_page_knows_its_models_is_kept(page: Any) -> None:
    held: list[Any] = []
    page.route("**/settings", lambda route: held.append(route))
    page.reload()
    page.click("#more")
    page.fill("#system", "Be kind.")
    page.fill("#text", "Hello")
    page.press("#text", "Enter")
    playwright.expect(page.locator("#text")).to_have_value("")
    with page.expect_request(lambda request: request.url.endswith("/answer")) as one:
        held[0].continue_()
    assert [turn["content"] for turn in one.value.post_data_json["messages"]] == ["Be kind.", "Hello"]
    assert page.input_value("#max_new_tokens") == "12"
    page.locator(".score").nth(1).wait_for()
    assert page.locator(".said").all_inner_texts() == ["Hello"]


def test_each_model_reads_its_own_answers(page: Any) -> None:
    say(page, "My kettle leaks.")
    first = page.locator(".turn").first.locator(".body")
    texts = [first.nth(n).text_content() for n in (0, 1)]
    with page.expect_request(lambda request: request.url.endswith("/answer")) as one:
        say(page, "And now?")
    body = one.value.post_data_json
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    squeezed = "".join(body["messages"][1]["content"].split())
    assert squeezed.startswith("".join(texts[body["model"]].split())[:10])


def test_an_answer_is_stopped_and_keeps_what_there_is(page: Any) -> None:
    page.click("#more")
    page.fill("#max_new_tokens", "450")
    page.fill("#text", "Tell me everything.")
    page.press("#text", "Enter")
    page.locator(".body", has_text=re.compile(r".{4}", re.DOTALL)).first.wait_for()
    page.click("#stop")
    page.locator(".foot").nth(1).wait_for()
    assert "stopped" in page.locator(".foot").first.inner_text()
    assert len(bodies(page, 0)[0]) > 3
    page.locator(".score").nth(1).wait_for()
    # The page is ready for the next message.
    page.fill("#max_new_tokens", "5")
    say(page, "Shorter.")


def test_an_answer_is_drawn_again_and_both_versions_stay(page: Any) -> None:
    say(page, "My kettle leaks.")
    before = bodies(page, 0)
    page.get_by_label("Answer again").first.click()
    page.get_by_text("2/2").wait_for()
    page.locator(".score").nth(1).wait_for()
    after = bodies(page, 0)
    assert after[0] != before[0]
    assert after[1] == before[1]
    page.get_by_label("Earlier version").click()
    assert bodies(page, 0) == before
    # Without chance, the answer is the same each time.
    page.click("#more")
    page.fill("#temperature", "0")
    for number in (3, 4):
        page.get_by_label("Answer again").first.click()
        page.get_by_text(f"{number}/{number}").wait_for()
        page.locator(".score").nth(1).wait_for()
        before, after = after, bodies(page, 0)
    assert before[0] == after[0]


def test_a_server_that_is_down_is_named_with_what_to_do(page: Any) -> None:
    page.route("**/answer", lambda route: route.abort("connectionrefused"))
    page.fill("#text", "My kettle leaks.")
    page.press("#text", "Enter")
    page.locator(".error").nth(1).wait_for()
    assert (
        page.locator(".error").all_inner_texts() == ["The server does not answer. Start it again, then try again."] * 2
    )
    page.unroute("**/answer")
    page.locator(".answer").first.get_by_label("Answer again").click()
    page.locator(".answer").first.locator(".score").wait_for()


def test_a_turn_is_edited_and_what_followed_is_asked_again(page: Any) -> None:
    say(page, "My kettle leaks.")
    say(page, "And now?")
    page.get_by_label("Edit this message").first.click()
    page.get_by_label("New text").fill("My sofa has a stain.")
    page.get_by_label("New text").press("Enter")
    page.get_by_text("My sofa has a stain.").wait_for()
    page.locator(".score").nth(1).wait_for()
    assert page.locator(".said").all_inner_texts() == ["My sofa has a stain."]
    page.get_by_label("Edit this answer").first.click()
    page.get_by_label("New text").fill("Scrub the **spot**.")
    page.get_by_label("New text").press("Enter")
    page.locator(".body strong").wait_for()
    assert bodies(page, 0)[0] == "Scrub the spot."
    with page.expect_request(lambda request: request.url.endswith("/answer")) as one:
        say(page, "Thanks.")
    assert one.value.post_data_json["messages"][1]["content"] == "Scrub the **spot**."


def test_thumbs_become_preferences(page: Any, served: tuple[str, Path]) -> None:
    say(page, "My lamp rattles.")
    page.get_by_label("Good answer").first.click()
    page.get_by_text("1 rating, 0 preferences").wait_for()
    page.get_by_label("Bad answer").nth(1).click()
    page.get_by_text("2 ratings, 1 preference").wait_for()
    (row,) = map(json.loads, (served[1] / "preferences.jsonl").read_text().splitlines())
    assert row["prompt"] == [{"role": "user", "content": "My lamp rattles."}]
    chosen, rejected = (row[name][0]["content"] for name in ("chosen", "rejected"))
    assert ["".join(text.split()) for text in bodies(page, 0)] == ["".join(text.split()) for text in (chosen, rejected)]
    page.get_by_label("Bad answer").nth(1).click()
    page.get_by_text("1 rating, 0 preferences").wait_for()
    assert page.get_by_label("Bad answer").nth(1).get_attribute("aria-pressed") == "false"


def test_both_models_go_on_from_a_shared_answer(page: Any, served: tuple[str, Path]) -> None:
    say(page, "My kettle leaks.")
    page.get_by_label("Both go on from this answer").nth(1).click()
    asked: list[Any] = []
    page.on("request", lambda one: asked.append(one.post_data_json) if one.url.endswith("/answer") else None)
    say(page, "And now?")
    one, other = (body["messages"] for body in asked)
    assert one == other
    squeezed = "".join(one[1]["content"].split())
    assert squeezed == "".join(bodies(page, 0)[1].split())
    assert page.get_by_label("Both go on from this answer").first.is_disabled()
    # Both answers were given to the same conversation, so thumbs make a pair of them.
    second = page.locator(".turn").nth(1)
    second.get_by_label("Good answer").nth(1).click()
    page.locator("#saved").get_by_text("rating").wait_for()
    second.get_by_label("Bad answer").first.click()
    page.get_by_text(", 1 preference").wait_for()
    (row,) = map(json.loads, (served[1] / "preferences.jsonl").read_text().splitlines())
    assert row["prompt"] == one
    # Other tests count what is saved.
    second.get_by_label("Good answer").nth(1).click()
    page.get_by_text(", 0 preferences").wait_for()
    second.get_by_label("Bad answer").first.click()
    second.locator(".down[aria-pressed=false]").nth(1).wait_for()


def test_what_somebody_types_stays_when_a_late_answer_arrives(page: Any) -> None:
    say(page, "My lamp rattles.")
    held: list[Any] = []
    page.route("**/thumb", lambda route: held.append(route))
    with page.expect_request("**/thumb"):
        page.get_by_label("Good answer").first.click()
    page.get_by_label("Edit this answer").first.click()
    page.get_by_label("New text").fill("Tighten the screw.")
    # A new message draws the whole conversation.
    say(page, "And now?")
    held[0].continue_()
    page.locator("#saved").get_by_text("rating").wait_for()
    assert page.get_by_label("New text").input_value() == "Tighten the screw."
    page.get_by_label("New text").press("Escape")
    # Other tests count what is saved.
    page.unroute("**/thumb")
    page.locator(".up[aria-pressed=true]").click()
    page.locator(".up[aria-pressed=true]").wait_for(state="detached")


def test_answers_that_are_refused_at_the_same_time_wait_for_one_password(page: Any) -> None:
    refused: list[Any] = []
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))

    def refuse_two(route: Any) -> None:
        refused.append(route)
        if len(refused) > 2:
            route.continue_()
        else:
            route.fulfill(status=401, json={"detail": "the page needs its password"})

    page.route("**/answer", refuse_two)
    page.fill("#text", "My lamp rattles.")
    page.press("#text", "Enter")
    page.fill("#password", "open sesame")
    page.press("#password", "Enter")
    page.locator(".score").nth(1).wait_for()
    assert len(refused) == 4
    assert [url.rpartition("/")[2] for url in sent].count("login") == 1


def test_the_system_prompt_and_the_settings_are_those_of_the_page(page: Any) -> None:
    page.click("#more")
    page.fill("#system", "Be kind.")
    page.fill("#top_p", "0.5")
    with page.expect_request(lambda request: request.url.endswith("/answer")) as one:
        say(page, "Hello")
    sent = one.value.post_data_json
    assert sent["messages"][0] == {"role": "system", "content": "Be kind."}
    assert (sent["top_p"], sent["max_new_tokens"]) == (0.5, 12)
    page.fill("#top_p", "7")
    page.fill("#text", "Hello")
    page.press("#text", "Enter")
    page.get_by_text("top_p=7.0: must lie in (0, 1]").first.wait_for()
    # What no model could answer is not part of what they read next.
    page.fill("#top_p", "0.5")
    with page.expect_request(lambda request: request.url.endswith("/answer")) as one:
        say(page, "Hello again")
    assert [turn["role"] for turn in one.value.post_data_json["messages"]] == ["system", "user", "assistant", "user"]


def test_text_that_looks_like_html_is_shown_as_text(page: Any) -> None:
    hostile = "<img src=x onerror=\"document.title='hacked'\"><b>bold</b>"
    say(page, hostile)
    assert page.locator(".said").inner_text() == hostile
    page.get_by_label("Edit this answer").first.click()
    page.get_by_label("New text").fill(hostile)
    page.get_by_label("New text").press("Enter")
    page.locator(".body").first.get_by_text("onerror").wait_for()
    assert page.locator("main img, main b").count() == 0
    assert page.title() != "hacked"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(width: int, scheme: str, browser: Any, served: tuple[str, Path]) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.goto(served[0])
    say(page, f"{'word' * 80} and\n{'many words ' * 40}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    tops = [page.locator(".answer").nth(n).bounding_box()["y"] for n in (0, 1)]
    # A narrow window shows one answer below the other.
    assert (tops[0] == tops[1]) == (width == 1280)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 21, 25)"
    assert dark == (scheme == "dark")
    page.close()
