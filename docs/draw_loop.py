"""Goes once round the loop of `docs/loop.md`: label, reward model, PPO, chat, evaluate.

A browser presses the keys, and the choices follow the gold rule of the demo. The commands print what they print; the
pictures go to the folder that is named last. This needs the extra `dev`, Chromium, and the demo's pipeline:

python docs/draw_loop.py outputs/pipeline/<run> docs
"""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from lightning_rlhf.demo.gold import gold

WIDE, NARROW = {"width": 1280, "height": 760}, {"width": 400, "height": 800}
QUESTION = "Please help me, the kettle of my sister leaks this morning."


def main(sft: str, pictures: Path, choices: int, reward_settings: list[str], ppo_settings: list[str]) -> Path:
    """Goes round the loop in the current folder, and returns the folder of the evaluation.

    Args:
        sft: Folder of the model that begins.
        pictures: Folder for the pictures.
        choices: Number of pairs of which one answer is better.
        reward_settings: Settings of `stage=reward` beside those of the page.
        ppo_settings: Settings of `stage=ppo` beside those of the page.
    """
    demo = files("lightning_rlhf.demo")
    prompts, held_out, preferences = (
        str(demo / f"{name}.jsonl") for name in ("prompts", "prompts_held_out", "preferences_held_out")
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        label(browser, pictures, choices, f"model_dir={sft}", f"prompts={prompts}", "max_new_tokens=48")
        labels = ("data=files", "data.path=labels.jsonl")
        run("train", "stage=reward", *labels, f"model.pretrained={sft}", *reward_settings)
        reward = newest("reward")
        run("evaluate", f"reward_model={reward}/model", f"preferences={preferences}")
        run("train", "stage=ppo", f"model.pretrained={sft}", f"reward.path={reward}/model", *ppo_settings)
        ppo = newest("ppo")
        chat(browser, pictures, f"model_dir={ppo}/model", f"against={sft}", f"reward_model={reward}/model")
    compared = (f"a={ppo}/model", f"b={sft}", f"reward_model={reward}/model", "gold=lightning_rlhf.demo.gold:gold")
    run("evaluate", *compared, f"prompts={held_out}", "sampling.max_new_tokens=48")
    return newest("evaluate")


def label(browser: Browser, pictures: Path, choices: int, *settings: str) -> None:
    """Labels until there are enough pairs, by keys alone; half-way, the server is killed and started again."""
    page = browser.new_page(viewport=WIDE)
    asked: list[str] = []
    with server("label", *settings) as (process, url):
        page.goto(url)
        expect(page.locator("#naming")).to_be_visible()
        page.keyboard.press("Control+a")
        page.keyboard.insert_text("ann")
        page.keyboard.press("Enter")
        port = url.rsplit(":", 1)[1]
        while pairs() < choices // 2:
            choose(page, asked)
        draw(page, pictures / "loop_label")
        process.kill()
        process.wait()
    with server("label", *settings, f"port={port}") as (process, _):
        while pairs() < choices:
            choose(page, asked)
        process.send_signal(signal.SIGINT)
        print(process.communicate()[0])
    # Some questions come again on purpose, to measure how consistent a person is.
    again = sum(row["verdict"] == "repeat" for row in rows())
    assert len(set(asked)) + again == len(asked) == len(rows()), "a question was asked twice, or a choice was lost"
    page.close()


def choose(page: Page, asked: list[str]) -> None:
    """Presses the key for the answer that the gold rule prefers."""
    expect(page.locator("#question")).to_be_visible(timeout=60_000)
    prompt = page.locator(".turn:last-child .text").inner_text()
    answers = page.locator(".answer .text").all_inner_texts()
    scores = gold([prompt] * len(answers), answers)
    best = max(scores)
    tied = scores.count(best) == len(scores)
    page.keyboard.press("0" if tied and best < 0.5 else "=" if tied else str(scores.index(best) + 1))
    asked.append(prompt)
    expect(page.locator("#progress")).to_contain_text(f"{len(asked)} done")


def chat(browser: Browser, pictures: Path, *settings: str) -> None:
    """Asks two models side by side, and rates their answers."""
    page = browser.new_page(viewport=WIDE)
    with server("chat", "chat.web=true", "seed=3", "sampling.max_new_tokens=48", *settings) as (process, url):
        page.goto(url)
        page.fill("#text", QUESTION)
        page.press("#text", "Enter")
        expect(page.locator(".score")).to_have_count(2, timeout=60_000)
        answers = page.locator(".body").all_inner_texts()
        better = int(gold([QUESTION], answers[1:]) > gold([QUESTION], answers[:1]))
        page.get_by_label("Good answer").nth(better).click()
        page.get_by_label("Bad answer").nth(1 - better).click()
        expect(page.get_by_text("2 ratings, 1 preference")).to_be_visible()
        draw(page, pictures / "loop_chat")
        process.send_signal(signal.SIGINT)
        process.communicate()
    page.close()


def draw(page: Page, path: Path) -> None:
    """Draws the page in a wide and in a narrow window."""
    for name, size in (("narrow", NARROW), ("wide", WIDE)):
        page.set_viewport_size(size)
        page.wait_for_timeout(300)
        page.screenshot(path=f"{path}_{name}.png")


@contextmanager
def server(command: str, *settings: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Starts a command that serves a page, and yields its process and address once it listens."""
    ours = "port=0" if command == "label" else "chat.port=0"
    words = [ours, *settings] if not any(word.startswith("port=") for word in settings) else list(settings)
    print("$ lightning-rlhf", command, *words, flush=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "lightning_rlhf.cli", command, *words],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            if found := re.search(r"at (http://127\.0\.0\.1:\d+)", line):
                yield process, found[1]
                return
        raise SystemExit(f"{command} has ended with code {process.wait()}")
    finally:
        process.kill()
        process.wait()


def run(*words: str) -> None:
    """Runs a command to its end."""
    print("$ lightning-rlhf", *words, flush=True)
    subprocess.run([sys.executable, "-m", "lightning_rlhf.cli", *words], check=True)


def newest(stage: str) -> Path:
    """Returns the folder of the newest run of a stage."""
    return max(Path("outputs", stage).iterdir(), key=lambda folder: folder.stat().st_mtime)


def rows() -> list[dict[str, object]]:
    """Reads the choices."""
    file = Path("labels.jsonl")
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []


def pairs() -> int:
    """Counts the choices of a better answer."""
    return sum(row["verdict"] == "better" for row in rows())


if __name__ == "__main__":
    main(f"{sys.argv[1]}/sft/model", Path(sys.argv[2]), 200, [], [])
