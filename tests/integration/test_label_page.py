"""The page of `lightning-rlhf label` in a real browser, by the keyboard alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from labelling import browser_path, rows, server, write_pairs
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from support import TINY, TINY_DPO, command, free_port, keep, result_of, run_folder

pytestmark = pytest.mark.slow

# The side of an element at which its text starts.
SIDE = """(element) => {
  const range = document.createRange(), whole = element.getBoundingClientRect();
  range.selectNodeContents(element);
  const text = range.getBoundingClientRect();
  return text.left - whole.left < whole.right - text.right ? "left" : "right";
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium
        # A container has no sandbox for a browser.
        yield chromium.launch(executable_path=browser_path(chromium.executable_path), args=["--no-sandbox"])


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Opens a page; whatever the browser complains about fails the test, except for a server that is down."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    yield page
    context.close()
    known = ("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "favicon", "401 (Unauthorized)", "ERR_EMPTY_RESPONSE")
    assert [text for text in complaints if not any(word in text for word in known)] == []


def log_in(page: Page, url: str, name: str = "ann") -> None:
    page.goto(url)
    expect(page.locator("#naming")).to_be_visible()
    # The page suggests the name of the user.
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(name)
    page.keyboard.press("Enter")
    expect(page.locator("#question")).to_be_visible()


def prompt(page: Page) -> str:
    return page.locator(".turn:last-child .text").inner_text()


def place_of_good(page: Page) -> int:
    return [text.startswith("Good") for text in page.locator(".answer .text").all_inner_texts()].index(True)


def test_twenty_pairs_by_keyboard_through_a_killed_server_train_a_reward_model(page: Page, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 22)
    words = ("pairs=pairs.jsonl", f"port={free_port()}", "repeats=0")
    prompts = []

    def press(key: str, told: str) -> None:
        prompts.append(prompt(page))
        page.keyboard.press(key)
        expect(page.locator("#status")).to_contain_text(told)
        expect(page.locator("#progress")).to_contain_text(f"{len(prompts)} done")

    with server(tmp_path, *words) as running:
        log_in(page, running.url)
        for _ in range(10):
            press(str(place_of_good(page) + 1), "is better")
        running.kill()
        saved = (tmp_path / "labels.jsonl").read_bytes()
        # The choice is made while there is no server.
        prompts.append(prompt(page))
        page.keyboard.press(str(place_of_good(page) + 1))
        expect(page.locator("#status")).to_contain_text("The server does not answer. Nothing is lost")
    assert (tmp_path / "labels.jsonl").read_bytes() == saved
    with server(tmp_path, *words) as running:
        expect(page.locator("#progress")).to_contain_text("11 done")
        for _ in range(9):
            press(str(place_of_good(page) + 1), "is better")
        press("=", "Saved: a tie")
        press("0", "Saved: both bad")
        expect(page.locator("#message h1")).to_have_text("That is all")
        running.stop()
    assert len(set(prompts)) == len(prompts) == 22
    found = rows(tmp_path / "labels.jsonl")
    assert [row["prompt"][0]["content"] for row in found] == prompts
    assert [row["verdict"] for row in found] == ["better"] * 20 + ["tie", "both_bad"]
    assert all(row["chosen"][0]["content"].startswith("Good") for row in found[:20])
    for stage, settings in (("reward", TINY), ("dpo", [*TINY, *TINY_DPO])):
        done = command(tmp_path, *keep(settings, stage), "experiment=none", "data=files", "data.path=labels.jsonl")
        assert done.returncode == 0, done.stderr
        assert "labels.jsonl: ties left out: 1" in done.stdout + done.stderr
        assert result_of(run_folder(tmp_path))["status"] == "finished"


def test_every_key_does_what_the_help_says(page: Page, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 6)
    keys, status = page.keyboard, page.locator("#status")
    with server(tmp_path, "pairs=pairs.jsonl", "port=0", "repeats=0") as running:
        log_in(page, running.url)
        keys.press("?")
        expect(page.locator("#help")).to_be_visible()
        # A key that reaches the page below would choose.
        keys.press("1")
        keys.press("Escape")
        expect(page.locator("#help")).not_to_be_visible()
        assert rows(tmp_path / "labels.jsonl") == []

        keys.press("d")
        expect(page.locator("mark").first).to_be_visible()
        keys.press("r")
        expect(page.locator("mark")).to_have_count(0)
        expect(page.locator(".text.raw")).to_have_count(3)
        keys.press("r")
        first = prompt(page)
        keys.press("c")
        expect(page.locator(".how").first).to_have_text("is clearly better")
        keys.press("e")
        keys.press("Control+a")
        keys.insert_text("A better answer with 1 = 0 s u in it")
        keys.press("Escape")
        expect(status).to_have_text("Discarded. e brings it back.")
        expect(page.locator("#kept")).to_be_hidden()
        keys.press("e")
        expect(page.locator("#edited")).to_have_value("A better answer with 1 = 0 s u in it")
        keys.press("Control+Enter")
        keys.press("n")
        keys.insert_text("a comment")
        keys.press("Control+Enter")
        expect(page.locator("#kept")).to_have_text("Your choice also saves an edited answer and a comment.")
        keys.press("2")
        expect(status).to_contain_text("Saved: 2 is better")
        keys.press("s")
        expect(status).to_contain_text("Skipped")
        keys.press("u")
        expect(status).to_have_text("Undone.")
        keys.press("u")
        expect(page.locator("#kept")).to_be_visible()
        assert prompt(page) == first
        expect(page.locator(".how").first).to_have_text("is clearly better")
        keys.press("u")
        expect(status).to_have_text("There is nothing to undo.")
        keys.press("m")
        keys.press("1")
        expect(status).to_contain_text("Saved: 1 is better")
        keys.press("p")
        # The first comparison of people imports torch.
        expect(page.locator("#habits td").first).to_have_text("ann", timeout=60_000)
        keys.press("Escape")
    (row,) = rows(tmp_path / "labels.jsonl")
    assert (row["strength"], row["label"]["comment"]) == (3, "a comment")
    (edited,) = rows(tmp_path / "labels.edited.jsonl")
    assert edited["completion"][0]["content"] == "A better answer with 1 = 0 s u in it"


def test_what_somebody_has_typed_and_selected_stays(page: Page, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 3)
    keys, status, edited = page.keyboard, page.locator("#status"), page.locator("#edited")
    with server(tmp_path, "pairs=pairs.jsonl", "port=0", "repeats=0") as running:
        log_in(page, running.url)
        keys.press("1")
        expect(status).to_contain_text("Saved")
        keys.press("e")
        keys.press("Control+a")
        keys.insert_text("A better answer")
        keys.press("Control+Enter")
        page.locator(".answer .text p").first.select_text()
        selected = page.evaluate("getSelection().toString()")
        keys.press("m")
        assert page.evaluate("getSelection().toString()") == selected != ""
        # An undo leaves the question, which comes back as it was.
        keys.press("u")
        expect(status).to_have_text("Undone.")
        expect(edited).to_have_value("")
        keys.press("1")
        expect(edited).to_have_value("A better answer")
        expect(page.locator(".how").first).to_have_text("is much better")
        # What a server says late opens nothing over the place where somebody types.
        held: list[Route] = []
        page.route("**/people", lambda route: held.append(route))
        keys.press("p")
        expect(page.locator("#people")).to_be_visible()
        keys.press("Escape")
        keys.press("e")
        team = {"shared": 4, "agreed": 2, "kappa": 1 / 3}
        held[0].fulfill(json={"people": [], "agreements": [], "team": team})
        expect(page.locator("#agreements td")).to_have_text(["all", "4", "50 %", "0.33"])
        expect(page.locator("#habits td")).to_have_count(0)
        keys.insert_text("!")
        expect(edited).to_have_value("A better answer!")
        # The name that somebody has begun to type and then gives up is not taken.
        keys.press("Control+Enter")
        page.locator("#who").click()
        keys.insert_text("bob")
        keys.press("Escape")
        expect(page.locator("#who")).to_have_text("ann")


def test_a_hostile_sample_does_nothing_and_looks_like_text(page: Page, tmp_path: Path) -> None:
    attack = (
        "<script>document.title='hit'</script><img src=x onerror=\"document.title='hit'\"> [x](javascript:alert(1))"
    )
    pair = {"prompt": f"Why? {attack}", "chosen": attack, "rejected": f"{attack} no"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with server(tmp_path, "pairs=pairs.jsonl", "port=0") as running:
        log_in(page, running.url)
        assert page.locator(".answer .text").first.inner_text().startswith("<script>document.title='hit'</script><img")
        page.keyboard.press("d")
        expect(page.locator("mark").first).to_be_visible()
        assert page.title() == "Which answer is better?"
        assert page.locator("#question script, #question img, #question a").count() == 0
        assert all(url.startswith(running.url) for url in asked)


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(page: Page, width: int, tmp_path: Path) -> None:
    long = "word " * 400 + "x" * 500 + "\n\n```python\n" + "y = 1; " * 60 + "\n```\n\n|" + "a|" * 40 + "\n|" + "-|" * 40
    pair = {"prompt": "Why? " * 300, "chosen": long, "rejected": "No."}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    page.set_viewport_size({"width": width, "height": 844})
    with server(tmp_path, "pairs=pairs.jsonl", "port=0") as running:
        log_in(page, running.url)
        for key in ("", "d", "r", "e"):
            if key:
                page.keyboard.press(key)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        heights = page.evaluate("[...document.querySelectorAll('.answer')].map((one) => one.offsetHeight)")
        assert (len(set(heights)) == 1) == (width == 1280)


def test_a_team_member_logs_in_and_stays_in(page: Page, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 3)
    words = ("pairs=pairs.jsonl", f"port={free_port()}", "password=open-sesame")
    with server(tmp_path, *words) as running:
        page.goto(running.url)
        for word in ("wrong", "open-sesame"):
            expect(page.locator("#login")).to_be_visible()
            page.keyboard.insert_text(word)
            page.keyboard.press("Enter")
            if word == "wrong":
                expect(page.locator("#refused")).to_have_text("this is not the password")
        expect(page.locator("#naming")).to_be_visible()
        page.keyboard.insert_text("bob")
        page.keyboard.press("Enter")
        expect(page.locator("#question")).to_be_visible()
        running.kill()
    with server(tmp_path, *words):
        page.reload()
        expect(page.locator("#question")).to_be_visible()
        expect(page.locator("#who")).to_have_text("bob")


def test_people_who_share_a_browser_see_their_own_order_of_the_answers(page: Page, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 6)
    with server(tmp_path, "pairs=pairs.jsonl", "port=0", "repeats=0", "shared=1") as running:
        log_in(page, running.url, "bob")
        for done in range(6):
            for person in ("ann", "bob"):
                page.locator("#who").click()
                page.keyboard.press("Control+a")
                page.keyboard.insert_text(person)
                page.keyboard.press("Enter")
                expect(page.locator("#who")).to_have_text(person)
                expect(page.locator("body.busy")).to_have_count(0)
                expect(page.locator("#progress")).to_contain_text(f"{done} done")
                page.keyboard.press(str(place_of_good(page) + 1))
                expect(page.locator("#progress")).to_contain_text(f"{done + 1} done")
    found = rows(tmp_path / "labels.jsonl")
    assert len(found) == 12
    assert all(row["chosen"][0]["content"].startswith("Good") for row in found)
    orders = {(row["label"]["item"], row["label"]["person"]): row["label"]["shown"] for row in found}
    assert any(orders[item, "bob"] != shown for (item, person), shown in orders.items() if person == "ann")


def test_two_windows_of_one_person_never_say_that_a_lost_answer_is_saved(page: Page, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 3)
    with server(tmp_path, "pairs=pairs.jsonl", "port=0", "repeats=0") as running:
        log_in(page, running.url)
        other = page.context.new_page()
        other.goto(running.url)
        expect(other.locator("#question")).to_be_visible()
        assert prompt(other) == (first := prompt(page))
        page.keyboard.press("=")
        expect(page.locator("#status")).to_contain_text("Saved: a tie")
        other.keyboard.press("0")
        expect(other.locator("#status")).to_contain_text("That answer stays, and this one was not saved.")
        # It goes on with the question that the first window shows now.
        expect(other.locator("#progress")).to_contain_text("1 done")
        assert prompt(other) == prompt(page) != first
    assert [row["verdict"] for row in rows(tmp_path / "labels.jsonl")] == ["tie"]


def test_arabic_and_hebrew_run_from_right_to_left_and_code_does_not(page: Page, tmp_path: Path) -> None:
    arabic = "مرحبا بالعالم.\n\nEnglish.\n\n1. واحد\n\n```python\nprint(1)\n```"
    pair = {"prompt": "שלום", "chosen": arabic, "rejected": "No."}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    with server(tmp_path, "pairs=pairs.jsonl", "port=0") as running:
        log_in(page, running.url)
        answer = page.locator(".answer .text", has_text="English.")
        sides = {text: answer.locator("p", has_text=text).evaluate(SIDE) for text in ("مرحبا", "English")}
        assert sides == {"مرحبا": "right", "English": "left"}
        assert page.locator(".turn .text p").evaluate(SIDE) == "right"
        assert answer.locator("pre").evaluate("(e) => getComputedStyle(e).direction") == "ltr"
        assert answer.locator("li").evaluate("(e) => getComputedStyle(e).direction") == "rtl"
        other = page.locator(".answer .text", has_text="No.")
        assert other.locator("p").evaluate(SIDE) == "left"
