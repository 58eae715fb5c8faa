"""The run card: what it shows, what it leaves out, and that text from a model cannot break it."""

import base64
import csv
import hashlib
import json
import math
import re
import shlex
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_rlhf.errors import UserError
from lightning_rlhf.report import write_report
from lightning_rlhf.report.costs import costs
from lightning_rlhf.report.formatting import decimal
from lightning_rlhf.report.health_plots import health_plots
from lightning_rlhf.report.read import read_run
from lightning_rlhf.report.samples import before_and_after, rollouts_over_time
from lightning_rlhf.report.stage_plots import stage_plots
from lightning_rlhf.report.training import training_records
from lightning_rlhf.stages import STAGES

VERSIONS = {"python": "3.11.7", "torch": "2.13.0", "lightning": "2.6.6", "transformers": "5.23.0"}


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(["epoch", "step", *(name for row in rows for name in row)]))
    with (folder / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_settings(folder: Path, **settings: Any) -> None:
    """JSON is YAML too."""
    write_json(folder / "config.yaml", settings)


def write_samples(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def result(stage: str, status: str = "finished", **metrics: float) -> dict[str, Any]:
    return {
        "stage": stage,
        "status": status,
        "metrics": metrics,
        "model_dir": f"outputs/demo/{stage}/model",
        "seconds": 312.0,
        "versions": VERSIONS,
        "seed": 7,
        "peak_bytes": 3 * 2**30,
    }


def wobble(i: int) -> float:
    return math.sin(12.9 * i) * math.cos(78.2 * i)


def make_sft(folder: Path) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for step in range(0, 400, 5):
        loss = 1.1 + 2.2 * math.exp(-step / 60)
        rows.append({"epoch": step // 200, "step": step, "train/loss": loss + 0.08 * wobble(step)})
        rows.append({"epoch": step // 200, "step": step, "lr-AdamW": 5e-4 * min(step / 40, 1 - step / 410)})
        if step % 50 == 45:
            rows.append({"epoch": 0, "step": step, "val/loss": loss + 0.1, "val/perplexity": math.exp(loss + 0.1)})
    write_rows(folder, rows)
    return result("sft", loss=1.21, perplexity=3.35, gold_rate=0.412, response_length=31.4, eos_rate=0.94)


def make_reward(folder: Path) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for step in range(0, 300, 5):
        loss = 0.32 + 0.37 * math.exp(-step / 70)
        rows.append({"epoch": 0, "step": step, "train/loss": loss + 0.03 * wobble(step)})
        if step % 30 == 25:
            accuracy = 0.86 - 0.33 * math.exp(-step / 70)
            rows.append({"epoch": 0, "step": step, "val/loss": loss + 0.02, "val/reward_accuracy": accuracy})
    write_rows(folder, rows)
    write_settings(folder, reward_model={"module": {"lr": 1e-3}, "data": {"minibatch_size": 64}})
    return result("reward", reward_accuracy=0.861, longer_wins_accuracy=0.543, shorter_wins_accuracy=0.457, loss=0.334)


def make_dpo(folder: Path) -> dict[str, Any]:
    rows = [dpo_held_out(0, epoch=-1)]
    for step in range(0, 300, 5):
        rows.append({"epoch": 0, "step": step, "train/loss": 0.69 * math.exp(-step / 90), "train/reward_margin": 0.0})
        if step % 100 == 95:
            rows.append(dpo_held_out(step, epoch=0))
    write_rows(folder, rows)
    said = [(0, i, BEFORE, 0) for i in range(9)] + [(1, i, AFTER, 1) for i in range(9)]
    write_samples(
        folder, [sample(at, "evaluation", PROMPTS[0], text, 0, at, gold, row=i) for at, i, text, gold in said]
    )
    return result("dpo", reward_accuracy=0.912, gold_rate=0.731, gold_win_rate=0.702, kl=2.31, loss=0.204)


def dpo_held_out(step: int, *, epoch: int) -> dict[str, Any]:
    gain = 1 - math.exp(-step / 90)
    return {
        "epoch": epoch,
        "step": step,
        "val/loss": 0.69 - 0.45 * gain,
        "val/reward_accuracy": 0.5 + 0.42 * gain,
        "val/chosen_reward": -0.4 * gain,
        "val/rejected_reward": -2.1 * gain,
        "val/chosen_logprob": -21 - 4 * gain,
        "val/gold_rate": 0.412 + 0.33 * gain,
        "val/gold_win_rate": 0.5 + 0.2 * gain,
        "val/kl": 2.4 * gain,
    }


def ppo_rows(iterations: int) -> list[dict[str, Any]]:
    rows = [held_out(0, epoch=-1, step=0)]
    for i in range(iterations):
        gain, noise, kl = 1 - math.exp(-i / 14), wobble(i), 7.5 * (1 - math.exp(-i / 22))
        rows.append(
            {
                "epoch": i,
                "step": 16 * (i + 1),
                "rollout/score_mean": 0.1 + 1.9 * gain + 0.09 * noise,
                "rollout/score_std": 0.9 - 0.4 * gain,
                "rollout/kl": kl + 0.3 * noise,
                "rollout/kl_k2": 0.9 * kl + 0.2 * abs(noise),
                "rollout/kl_k3": 1.05 * kl,
                "rollout/kl_coef": 0.05 * (1 + 0.3 * gain),
                "rollout/response_length": 31 + 9 * gain + noise,
                "rollout/eos_rate": 0.94 + 0.055 * gain,
                "rollout/entropy": 2.1 - 0.9 * gain + 0.04 * noise,
                "train/entropy": 2.05 - 0.9 * gain,
                "train/policy_loss": -0.012 + 0.004 * noise,
                "train/value_loss": 0.1 + 0.5 * math.exp(-i / 6) + 0.02 * noise,
                "train/clip_fraction": 0.11 + 0.03 * noise,
                "train/approx_kl": 0.011 + 0.003 * noise,
                "rollout/explained_variance": 0.8 - 0.8 * math.exp(-i / 9),
                "rollout/distinct_1": 0.3 - 0.1 * gain,
                "rollout/distinct_2": 0.6 - 0.2 * gain + 0.01 * noise,
                "rollout/zero_variance_groups": 0.2 + 0.1 * gain,
                "train/grad_norm": 1.4 + 0.2 * noise,
                "perf/rollout_seconds": 4.1 + 0.3 * noise,
                "perf/update_seconds": 2.6 + 0.1 * noise,
                "perf/tokens_per_second": 5200 + 240 * noise,
                "perf/samples_per_second": 19 + noise,
                "perf/tflops": 1.9 + 0.1 * noise,
                "perf/peak_gib": 2.98 if i > 1 else 2.7,
            }
        )
        if i % 5 == 4:
            rows.append(held_out(i + 1, epoch=i, step=16 * (i + 1)))
    return rows


def held_out(i: int, *, epoch: int, step: int) -> dict[str, Any]:
    gain = 1 - math.exp(-i / 14)
    return {
        "epoch": epoch,
        "step": step,
        "val/score": 0.08 + 1.8 * gain,
        "val/gold_rate": 0.412 + 0.42 * gain,
        "val/gold_win_rate": 0.5 + 0.3 * gain,
        "val/gold_mean": 0.8 + 0.1 * gain,
        "val/kl": 7.5 * (1 - math.exp(-i / 22)),
        "val/response_length": 31 + 9 * gain,
        "val/eos_rate": 0.94 + 0.055 * gain,
    }


PROMPTS = (
    "The market was busy, and Mara wanted bread.",
    "Write about a rainy day.",
    "Tom lost his hat in the park.\nWhat happened next?",
    "Describe a good friend.",
)
BEFORE = "She went to the the market and then it was and the day was the and it went on and"
AFTER = (
    "Mara walked past the bright stalls, bought a warm loaf with her last coin, "
    "and shared it with the old baker. “Come again,” he laughed."
)


def ppo_samples() -> list[dict[str, Any]]:
    rows = []
    for i in range(40):
        # Of 40 answers, 20 meet the gold metric before training, and all but the first of those that did not after it.
        prompt, gold = PROMPTS[i % 4], float(i % 2)
        rows.append(sample(0, "evaluation", prompt, BEFORE[i % 4 :], -0.31 + 0.02 * i, 0.0, gold, row=i))
        after = (BEFORE, gold) if i == 0 else (AFTER, 1.0)
        rows.append(sample(60, "evaluation", prompt, after[0], 1.92 - 0.03 * i, 6.4 + i / 40, after[1], row=i))
    rows += [sample(i, "rollout", PROMPTS[i % 4], AFTER, 0.02 * i, 0.1 * i, None) for i in range(1, 61)]
    return rows


def sample(
    iteration: int, phase: str, prompt: str, response: str, score: float, kl: float, gold: float | None, row: int = 0
) -> dict[str, Any]:
    fields = {
        "iteration": iteration,
        "phase": phase,
        "prompt": prompt,
        "response": response,
        "score": score,
        "kl": kl,
        "length": len(response.split()),
        "finish_reason": "stop" if response.endswith(("”", ".")) else "length",
    }
    if phase == "evaluation":
        fields["row"] = row
    return fields if gold is None else {**fields, "gold": gold}


def make_ppo(folder: Path) -> dict[str, Any]:
    write_rows(folder, ppo_rows(60))
    write_samples(folder, ppo_samples())
    return result(
        "ppo", score=1.86, gold_rate=0.826, gold_win_rate=0.784, kl=6.98, response_length=39.6, eos_rate=0.994
    )


def write_hydra(run_dir: Path, overrides: list[str]) -> None:
    folder = run_dir / ".hydra"
    folder.mkdir(parents=True)
    (folder / "overrides.yaml").write_text("".join(f"- {json.dumps(item)}\n" for item in overrides) or "[]\n")
    (folder / "config.yaml").write_text("stage: pipeline\nseed: 7\nppo:\n  kl_coef: 0.05\n  note: <b>&</b>\n")


def make_pipeline(run_dir: Path) -> Path:
    stages = {
        "sft": make_sft(run_dir / "sft"),
        "reward": make_reward(run_dir / "reward"),
        "ppo": make_ppo(run_dir / "ppo"),
    }
    for name, value in stages.items():
        write_json(run_dir / name / "result.json", value)
    top = result("pipeline", **stages["ppo"]["metrics"])
    write_json(run_dir / "result.json", {**top, "seconds": 958.0, "stages": stages})
    write_hydra(run_dir, ["stage=pipeline", "model=tiny", "ppo.prompt='a b'"])
    return run_dir


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pipeline(tmp_path_factory.mktemp("runs") / "2030-01-02_pipeline")


@pytest.fixture(scope="module")
def page(pipeline: Path) -> str:
    return write_report(pipeline).read_text("utf-8")


def render_at(run_dir: Path) -> str:
    return write_report(run_dir).read_text("utf-8")


def titles(html: str) -> list[str]:
    return re.findall(r"<h3>(.*?)</h3>", html)


def sections(html: str) -> list[str]:
    """The stages that have a section."""
    return [name for name in re.findall(r'<section id="(\w+)">', html) if name in STAGES]


def text_of(html: str) -> str:
    """Returns the text of a page without markup and with single spaces."""
    shown = re.sub(r"<(style|script)\b.*?</\1>|<[^>]+>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(shown).split())


def test_the_headline_of_a_pipeline_says_what_ppo_changed_and_what_it_cost(page: str) -> None:
    text = text_of(page)
    assert "PPO raised the gold rate on held-out prompts from 41.2% to 82.6%, 6.98 nats of KL per response" in text
    assert "Gold rate 41.2% → 82.6%" in text
    assert "Win rate 78.4%" in text
    assert "Reward accuracy 86.1%" in text


def test_a_fall_of_the_gold_rate_is_not_sold_as_a_gain(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", make_ppo(tmp_path) | {"metrics": {"gold_rate": 0.2, "kl": 3.0}})
    assert "PPO lowered the gold rate on held-out prompts from 41.2% to 20%" in text_of(render_at(tmp_path))


def test_a_run_that_only_measured_its_start_model_claims_no_change(tmp_path: Path) -> None:
    write_rows(tmp_path, ppo_rows(1))
    text = text_of(render_at(tmp_path))
    assert "Gold rate 41.2% held-out" in text
    assert "PPO left" not in text


def test_every_stage_of_a_pipeline_has_its_section_in_the_order_of_training(page: str) -> None:
    assert sections(page) == ["sft", "reward", "ppo"]


def test_all_plots_that_were_logged_are_drawn_and_no_other(pipeline: Path, page: str, tmp_path: Path) -> None:
    plots = {plot.title for stage in read_run(pipeline).stages for plot in stage_plots(stage) + health_plots(stage)}
    unlogged = {"Absolute error", "Implicit reward", "Log-probability of chosen answers", "Time per epoch"}
    # In a section that is about all stages, titles end with the stage.
    assert {title.partition(", ")[0] for title in titles(page)} == plots - unlogged
    write_json(tmp_path / "result.json", make_reward(tmp_path))
    assert titles(render_at(tmp_path)) == ["Loss", "Reward accuracy"]


def test_a_metric_with_one_value_gets_no_plot(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"epoch": 0, "step": 5, "train/loss": 1.0}])
    assert titles(render_at(tmp_path)) == []


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    assert re.findall(r'src="|url\((?!#)|@import|<link', page) == []
    assert len(page.encode()) < 1_500_000


def test_no_two_elements_share_an_id(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) > 20
    assert sorted(ids) == sorted(set(ids))


def test_the_curves_take_their_colours_from_the_theme(page: str) -> None:
    svg = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert "var(--accent)" in svg
    assert "var(--contrast)" in svg
    assert "#a1000" not in svg


def test_the_same_folder_gives_the_same_page_byte_for_byte(tmp_path: Path) -> None:
    make_reward(tmp_path)
    first = write_report(tmp_path).read_bytes()
    assert write_report(tmp_path).read_bytes() == first


def test_the_card_loads_the_model_chats_with_it_and_serves_it(page: str) -> None:
    text = text_of(page)
    for line in [
        'model_dir = "outputs/demo/pipeline/model"',
        "model = AutoModelForCausalLM.from_pretrained(model_dir)",
        "output = model.generate(**inputs.to(model.device), max_new_tokens=256)",
        "vllm serve outputs/demo/pipeline/model",
    ]:
        assert line in text


def test_the_card_uses_a_model_and_an_adapter_as_their_manifests_say(tmp_path: Path) -> None:
    usage = {"reward_model": True, "max_new_tokens": 256, "ending": ".rstrip()", "score_bias": 0.5}
    write_json(tmp_path / "model" / "lightning_rlhf.json", {"usage": usage})
    write_json(tmp_path / "adapter" / "lightning_rlhf.json", {"usage": usage, "base_model": "../base"})
    (tmp_path / "base").mkdir()
    write_json(tmp_path / "result.json", make_reward(tmp_path) | {"model_dir": str(tmp_path / "model")})
    text = text_of(render_at(tmp_path))
    assert "apply_chat_template(messages, tokenize=False).rstrip()" in text
    assert 'print(reward(text, add_special_tokens=False)[0]["score"] + reward.model.config.score_bias)' in text
    assert f"lightning-rlhf serve-reward model_dir={tmp_path}/model" in text
    assert 'base = str((Path(adapter_dir) / "../base").resolve())' in text


@pytest.mark.parametrize("told", [{"ending": "; exit()"}, {"max_new_tokens": "8); exit("}, {"unknown": 1}])
def test_the_card_shows_no_code_that_a_manifest_brings(told: dict[str, Any], tmp_path: Path) -> None:
    usage = {"reward_model": False, "max_new_tokens": 8, "ending": "", "score_bias": 0.0}
    write_json(tmp_path / "model" / "lightning_rlhf.json", {"usage": usage | told})
    write_json(tmp_path / "result.json", make_sft(tmp_path) | {"model_dir": str(tmp_path / "model")})
    html = render_at(tmp_path)
    assert "exit(" not in html
    assert "max_new_tokens=256" in html


def test_the_card_shows_the_checks_at_the_start_and_what_they_found(tmp_path: Path) -> None:
    found = {"check": "padding", "status": "ok", "found": "log-probs differ by 2e-7"}
    write_json(tmp_path / "result.json", make_ppo(tmp_path) | {"checks": [found]})
    text = text_of(render_at(tmp_path))
    assert "1 check at the start Check Stage Result What it found padding PPO ok log-probs differ by 2e-7" in text


def test_the_card_has_a_curve_of_every_metric_that_was_logged(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", make_ppo(tmp_path))
    html = render_at(tmp_path)
    (stage,) = read_run(tmp_path).stages
    curves = re.findall(r'role="img" aria-label="([^,]+), from', html)
    assert curves == sorted(stage.series)
    assert f"All metrics ({len(stage.series)})" in text_of(html)


def test_the_cards_of_a_pipeline_link_to_each_other(tmp_path: Path) -> None:
    run = make_pipeline(tmp_path / "run")
    for folder in (run / "sft", run / "reward", run / "ppo", run):
        write_report(folder)
    card = write_report(run / "reward").read_text("utf-8")
    assert '<a href="../sft/report.html">SFT</a> → <b>Reward model</b> → <a href="../ppo/report.html">PPO</a>' in card
    assert '<a href="./reward/report.html">The card of this stage alone</a>' in (run / "report.html").read_text("utf-8")


def test_what_a_model_wrote_is_shown_as_text_and_never_run(tmp_path: Path) -> None:
    attack = "</div><script>alert(1)</script><img src=x onerror=alert(1)>"
    write_samples(tmp_path, [sample(i, "evaluation", f"{attack} p", f"{attack} {i}", 0.0, 0.0, 1) for i in (0, 3)])
    write_hydra(tmp_path, [f"note={attack}"])
    write_json(tmp_path / "result.json", result("ppo") | {"model_dir": f"out/{attack}", "versions": {attack: attack}})
    html = render_at(tmp_path)
    assert "<script>alert" not in html
    assert "<img" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    # The policy of the page lets the browser run nothing but the script of this package.
    (code,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert f"script-src &#39;sha256-{digest}&#39;" in policy


def test_half_of_a_surrogate_pair_does_not_stop_the_page(tmp_path: Path) -> None:
    write_samples(tmp_path, [sample(0, "evaluation", "p", "half \ud83d here", 0.0, 0.0, 1)])
    assert "half ? here" in render_at(tmp_path)


def test_a_line_separator_in_an_answer_does_not_split_its_line(tmp_path: Path) -> None:
    row = json.dumps(sample(0, "evaluation", "p", "one\u2028two", 0.0, 0.0, 1), ensure_ascii=False)
    (tmp_path / "samples.jsonl").write_text(row + "\n", encoding="utf-8")
    assert [s.response for s in read_run(tmp_path).stages[0].samples] == ["one\u2028two"]


def answered(run_dir: Path) -> list[tuple[Any, ...]]:
    """Row, first answer and newest answer of each pair, in the order of the page."""
    pairs = before_and_after(read_run(run_dir).stages[-1])
    return [(pair.before.row, pair.before.response, pair.after and pair.after.response) for pair in pairs]


def test_answers_are_paired_by_row_and_those_that_changed_most_come_first(pipeline: Path) -> None:
    # The gold metric of all even rows but row 0 has risen by 1. The score has risen most in the first of them.
    assert answered(pipeline)[:2] == [(2, BEFORE[2:], AFTER), (4, BEFORE, AFTER)]
    assert [row for row, *_ in answered(pipeline)] == [2, 4, 6, 8, 10, 12, 14, 16]


def test_a_page_that_shows_gains_shows_the_greatest_loss_too(tmp_path: Path) -> None:
    golds = [(0, 1)] * 9 + [(0.5, 0.25), (0.5, 0.0)]
    write_samples(
        tmp_path, [sample(at, "evaluation", "p", "a", 0, 0, g[at], row=i) for i, g in enumerate(golds) for at in (0, 1)]
    )
    assert [row for row, *_ in answered(tmp_path)] == [0, 1, 2, 3, 4, 5, 6, 10]
    assert "The gold metric is higher than before in 9 of 11 answers, and lower in 2." in text_of(render_at(tmp_path))


def test_conversations_that_end_alike_are_shown_one_by_one_with_their_system_prompts(tmp_path: Path) -> None:
    rows = []
    for row in range(12):
        messages = [
            ("system", f"You are number {row}."),
            ("user", f"Story {row}?"),
            ("assistant", "So."),
            ("user", "Why?"),
        ]
        turns = [{"role": role, "content": content} for role, content in messages]
        rows += [
            sample(at, "evaluation", "Why?", f"answer {at}", at, 0, None, row=row) | {"messages": turns}
            for at in (0, 1)
        ]
    write_samples(tmp_path, rows)
    text = text_of(render_at(tmp_path))
    assert "System You are number 7. User Story 7? Assistant So. User Why? Before" in text
    assert [text.count(f"number {row}.") for row in range(12)] == [1] * 8 + [0] * 4


def test_the_middle_of_a_long_conversation_is_folded_away(tmp_path: Path) -> None:
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i}"} for i in range(7)]
    write_samples(tmp_path, [sample(0, "evaluation", "turn 6", "a", 0, 0, 1) | {"messages": turns}])
    html = render_at(tmp_path)
    folded = re.findall(r"<details><summary>5 more turns</summary>(.*?)</details>", html, re.DOTALL)[0]
    assert text_of(folded) == "Assistant turn 1 User turn 2 Assistant turn 3 User turn 4 Assistant turn 5"


def test_a_prompt_that_occurs_twice_has_two_pairs_of_answers(tmp_path: Path) -> None:
    said = [(0, 0, "a"), (0, 1, "b"), (1, 0, "c"), (1, 1, "b"), (1, 1, "d")]  # from a continued run
    write_samples(tmp_path, [sample(at, "evaluation", "p", text, 0, 0, 1, row=row) for at, row, text in said])
    assert answered(tmp_path) == [(0, "a", "c"), (1, "b", "d")]


def test_before_any_second_evaluation_the_first_answers_stand_alone(tmp_path: Path) -> None:
    write_samples(tmp_path, [row for row in ppo_samples() if row["iteration"] == 0])
    text = text_of(render_at(tmp_path))
    assert "Answers before training" in text
    assert "Before and after" not in text


def test_rollouts_are_spread_from_the_first_to_the_newest_iteration(pipeline: Path) -> None:
    chosen = [row.iteration for row in rollouts_over_time(read_run(pipeline).stages[2])]
    assert chosen == [1, 13, 25, 36, 48, 60]


@pytest.mark.parametrize("status", ["interrupted", "failed", "diverged", "running"])
def test_a_run_that_did_not_finish_says_so_on_top(tmp_path: Path, status: str) -> None:
    write_json(tmp_path / "result.json", make_sft(tmp_path) | {"status": status})
    assert "Not finished." in text_of(render_at(tmp_path))


ALARM = {
    "name": "kl_runaway",
    "iteration": 12,
    "step": 96,
    "message": "KL 0.7 nats a token: <far>",
    "remedy": "raise kl_coef",
}


def test_alarms_are_named_on_top_and_explained_in_the_health_section(tmp_path: Path) -> None:
    stages = {name: make(tmp_path / name) for name, make in (("sft", make_sft), ("ppo", make_ppo))}
    stages["sft"]["alarms"] = [ALARM | {"name": "not_finite"}]
    stages["ppo"] |= {"alarms": [ALARM], "stopped_by": "kl_runaway"}
    write_json(tmp_path / "result.json", result("pipeline") | {"stages": stages})
    html = render_at(tmp_path)
    top, health = html.split('<section id="health">')
    assert "Alarms rang: not_finite, kl_runaway. The run was stopped by kl_runaway." in text_of(top)
    assert "kl_runaway PPO iteration 12 KL 0.7 nats a token: <far> raise kl_coef" in text_of(health)
    assert "not_finite Supervised fine-tuning step 96" in text_of(health)
    assert {"Entropy, PPO", "Gradient norm, PPO"} <= set(titles(health))
    assert not {"Entropy", "Gradient norm", "Entropy, PPO"} & set(titles(top))


def test_a_healthy_run_says_that_no_alarm_rang_and_an_unwatched_one_says_nothing(page: str, tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", make_sft(tmp_path) | {"alarms": []})
    html = render_at(tmp_path)
    assert "Health No alarm rang." in text_of(html)
    assert 'class="banner' not in html
    assert "No alarm rang." not in text_of(page)


def test_a_finished_run_has_no_banner(page: str) -> None:
    assert 'class="banner' not in page


def test_a_run_without_a_result_shows_the_last_logged_numbers(tmp_path: Path) -> None:
    write_rows(tmp_path, ppo_rows(12))
    text = text_of(render_at(tmp_path))
    assert "it is still going, or it was stopped" in text
    assert "Gold rate 41.2% → 62.6%" in text


def test_the_headline_of_dpo_says_what_it_changed_and_counts_epochs(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", make_dpo(tmp_path))
    text = text_of(render_at(tmp_path))
    assert "DPO raised the gold rate on held-out prompts from 41.2% to 73.1%, 2.31 nats of KL per response" in text
    # Values that are the same for every model before training have no "before".
    assert "Gold rate 41.2% → 73.1%" in text
    assert "Win rate 70.2%" in text
    assert "Reward accuracy 91.2%" in text
    assert "KL 2.31" in text
    assert "After epoch 1" in text
    assert {"Implicit reward", "Log-probability of chosen answers"} <= set(titles(render_at(tmp_path)))


def test_dpo_without_a_gold_rule_tells_of_its_pairs(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", result("dpo", reward_accuracy=0.9, longer_wins_accuracy=0.6))
    sentence = "The implicit reward scores the preferred answer higher in 90% of held-out pairs"
    assert f"{sentence}; the better length rule manages 60%." in text_of(render_at(tmp_path))


def test_a_pipeline_with_dpo_leads_with_its_numbers(tmp_path: Path) -> None:
    stages = {"sft": make_sft(tmp_path / "sft"), "dpo": make_dpo(tmp_path / "dpo")}
    write_json(tmp_path / "result.json", result("pipeline") | {"stages": stages})
    html = render_at(tmp_path)
    assert sections(html) == ["sft", "dpo"]
    assert "<title>" in html
    assert "SFT → DPO" in text_of(html)
    assert "DPO raised the gold rate" in text_of(html)
    assert re.findall(r"<dt>(.*?)</dt>", html)[:4] == ["Gold rate", "Win rate", "Reward accuracy", "KL"]


def test_a_dpo_run_is_known_by_its_metrics_before_it_has_a_result(tmp_path: Path) -> None:
    make_dpo(tmp_path)
    assert [stage.name for stage in read_run(tmp_path).stages] == ["dpo"]


def test_a_pipeline_that_is_in_its_second_stage_shows_both(tmp_path: Path) -> None:
    write_json(tmp_path / "sft" / "result.json", make_sft(tmp_path / "sft"))
    make_reward(tmp_path / "reward")
    run = read_run(tmp_path)
    assert [(stage.name, stage.result.status) for stage in run.stages] == [
        ("sft", "finished"),
        ("reward", "unfinished"),
    ]
    assert "Reward accuracy 85.5%" in text_of(render_at(tmp_path))


def test_an_empty_folder_still_gives_a_page(tmp_path: Path) -> None:
    assert "it is still going, or it was stopped" in text_of(render_at(tmp_path))


def test_a_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run_dir=.*absent is not a folder"):
        write_report(tmp_path / "absent")


def test_values_that_are_not_finite_are_gaps_and_are_announced(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"epoch": 0, "step": i, "train/loss": 2.0 - i / 9} for i in range(10)]
    rows[4]["train/loss"], rows[5]["train/loss"] = math.nan, math.inf
    write_rows(tmp_path, rows)
    write_json(tmp_path / "result.json", result("sft", loss=math.nan))
    series = read_run(tmp_path).stages[0].series["train/loss"]
    assert np.flatnonzero(np.isnan(series.y)).tolist() == [4, 5]
    html = render_at(tmp_path)
    assert "metrics.csv: 2 of 10 values of train/loss are NaN or infinite" in text_of(html)
    assert "result.json: loss is nan." in text_of(html)
    assert "Loss NaN" in text_of(html)


def test_lines_cut_off_in_the_middle_are_left_out_and_announced(tmp_path: Path) -> None:
    write_samples(tmp_path, ppo_samples())
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write('{"iteration": 61, "phase": "roll')
    (tmp_path / "metrics.csv").write_text("epoch,step,train/loss\n0,0,2.0\n0,1,1.5\n0,")
    (tmp_path / "result.json").write_text('{"stage": "pp')
    html = render_at(tmp_path)
    assert "samples.jsonl: 1 of 141 lines could not be read" in text_of(html)
    assert "result.json" in text_of(html)
    assert titles(html) == ["Loss"]


def test_ppo_curves_count_iterations_with_zero_before_training(tmp_path: Path) -> None:
    write_rows(tmp_path, ppo_rows(10))
    series = read_run(tmp_path).stages[0].series
    assert series["rollout/kl"].x.tolist() == list(range(1, 11))
    assert series["val/score"].x.tolist() == [0, 5, 10]


def test_a_position_that_a_resumed_run_logged_again_counts_once_with_its_later_value(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"epoch": 0, "step": step, "train/loss": loss} for step, loss in [(0, 3), (1, 2), (1, 1)]])
    series = read_run(tmp_path).stages[0].series["train/loss"]
    assert (series.x.tolist(), series.y.tolist()) == ([1, 2], [3, 1])


def test_an_evaluation_after_the_only_step_of_an_iteration_is_not_one_before_training(tmp_path: Path) -> None:
    scores = {-1: 0.1, 0: 0.5, 1: 0.7}
    write_rows(
        tmp_path, [{"epoch": at, "step": max(at, 0), "val/score": y, "rollout/kl": 0} for at, y in scores.items()]
    )
    series = read_run(tmp_path).stages[0].series["val/score"]
    assert (series.x.tolist(), series.y.tolist()) == ([0, 1, 2], [0.1, 0.5, 0.7])


def test_the_command_can_be_pasted_into_a_shell(page: str) -> None:
    command = unescape(re.findall(r'Run it again</h2>\s*<pre class="line">(.*?)</pre>', page)[0])
    assert shlex.split(command) == ["python", "train.py", "stage=pipeline", "model=tiny", "ppo.prompt='a b'"]


def test_an_override_with_an_interpolation_is_shown_as_it_was_typed(tmp_path: Path) -> None:
    write_hydra(tmp_path, ["model_dir=${stages.sft}"])
    assert read_run(tmp_path).overrides == ("model_dir=${stages.sft}",)


def test_a_failed_writing_leaves_the_older_page_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = write_report(tmp_path).read_bytes()
    make_reward(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("lightning_rlhf.report.html.os.replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == older
    assert [path.name for path in tmp_path.glob(".report-*")] == []


def test_costs_list_each_stage_and_the_whole(pipeline: Path) -> None:
    table = costs(read_run(pipeline))
    assert [row[:2] for row in table.rows] == [
        ("Supervised fine-tuning", "5 min 12 s"),
        ("Reward model", "5 min 12 s"),
        ("PPO", "5 min 12 s"),
        ("Whole pipeline", "15 min 58 s"),
    ]
    assert table.columns[-1] == "Peak memory"
    assert table.rows[2][-1] == "3.00 GiB"


def test_a_plan_of_tensors_stands_beside_a_peak_that_says_if_it_is_of_the_whole_process(tmp_path: Path) -> None:
    record = make_reward(tmp_path)
    (tmp_path / "plan.json").write_text(json.dumps({"peak_bytes_per_device": 2**30}))
    for of, said in (("whole process", "3.00 GiB, whole process"), ("tensors", "3.00 GiB")):
        (tmp_path / "result.json").write_text(json.dumps(record | {"peak_of": of}))
        assert costs(read_run(tmp_path)).rows[0][-2:] == (said, "1.00 GiB of tensors")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (2.5e-4, "2.5e−4"), (-0.01234, "−0.0123"), (12345.6, "12,346"), (math.inf, "NaN"), (3.0, "3")],
)
def test_decimals_are_short_and_readable(value: float, text: str) -> None:
    assert decimal(value) == text


def test_samples_without_the_start_model_do_not_pretend_to_show_it(tmp_path: Path) -> None:
    write_samples(tmp_path, [sample(i, "evaluation", "p", f"answer {i}", 0.0, 0.0, 1) for i in (20, 10)])
    text = text_of(render_at(tmp_path))
    assert "Iteration 10 gold 1" in text
    assert "After iteration 20 gold 1" in text
    assert "Before gold" not in text


def scores_of(run_dir: Path, before: list[float], after: list[float], **more: Any) -> None:
    """A finished PPO run whose held-out answers had these scores, and a KL of `more`."""
    said = [(at, score, row) for at, scores in ((0, before), (9, after)) for row, score in enumerate(scores)]
    kl = more.pop("kl", [1.0] * len(after))
    rows = [
        sample(at, "evaluation", f"p{row}", f"a{at}", score, at and kl[row], None, row=row) for at, score, row in said
    ]
    write_samples(run_dir, rows)
    means = [sum(scores) / len(scores) for scores in (before, after)]
    write_rows(run_dir, [{"epoch": -1, "step": 0, "val/score": means[0], "val/kl": 0, "rollout/kl": 0}])
    write_json(run_dir / "result.json", result("ppo", score=means[1], kl=sum(kl) / len(kl), **more))


def test_a_score_that_moved_less_than_chance_explains_is_unchanged(tmp_path: Path) -> None:
    before = [0.1 * (i % 7) for i in range(64)]
    # Up and down by 0.1 in turn, and by 0.004 altogether: the standard error is 0.0125, six times as much at 95%.
    scores_of(tmp_path, before, [score + 0.004 + 0.1 * (-1) ** i for i, score in enumerate(before)])
    text = text_of(render_at(tmp_path))
    start, end = (f"{sum(before) / 64 + change:.3g}" for change in (0, 0.004))
    assert f"PPO left the score on held-out prompts unchanged at {end} ({start} before; with 64 prompts" in text
    assert "raised" not in text
    assert f"Score {end} unchanged" in text


def test_a_score_that_moved_more_than_chance_explains_is_raised(tmp_path: Path) -> None:
    before = [0.1 * (i % 7) for i in range(64)]
    scores_of(tmp_path, before, [score + 0.1 + 0.1 * (-1) ** i for i, score in enumerate(before)])
    assert "PPO raised the score on held-out prompts from 0.295 to 0.395" in text_of(render_at(tmp_path))


def test_a_change_that_the_digits_do_not_show_is_none(tmp_path: Path) -> None:
    scores_of(tmp_path, [0.3381] * 9, [0.3382] * 9)
    text = text_of(render_at(tmp_path))
    assert "PPO left the score on held-out prompts unchanged at 0.338" in text
    assert "from 0.338 to 0.338" not in text


def test_a_kl_within_its_noise_is_no_headline(tmp_path: Path) -> None:
    # The mean is −7e−5, and the standard error 0.01.
    scores_of(tmp_path, [0.0] * 16, [1.0] * 16, kl=[0.04 * (-1) ** i - 7e-5 for i in range(16)])
    text = text_of(render_at(tmp_path))
    assert "with no measurable KL from the model it started from" in text
    assert "KL ≈ 0 unchanged 95% interval −0.0221 to 0.0219" in text
    assert "7e−5" not in text


def test_a_win_rate_of_few_answers_is_not_told_from_a_half(tmp_path: Path) -> None:
    # Three wins, one loss and four ties: a share of 62.5%.
    golds = {0: [0.5] * 8, 5: [1.0, 1.0, 1.0, 0.0, 0.5, 0.5, 0.5, 0.5]}
    said = [(at, gold, row) for at, all_golds in golds.items() for row, gold in enumerate(all_golds)]
    write_samples(tmp_path, [sample(at, "evaluation", "p", f"a{at}", 0, 0, gold, row=row) for at, gold, row in said])
    write_json(tmp_path / "result.json", result("ppo", gold_win_rate=0.625))
    # Wilson's interval of 5 in 8
    assert "Win rate 62.5% unchanged 95% interval 30.6% to 86.3%" in text_of(render_at(tmp_path))


def test_rates_of_pairs_have_intervals_from_the_number_of_held_out_pairs(tmp_path: Path) -> None:
    record = result("reward", reward_accuracy=0.6, longer_wins_accuracy=0.55)
    write_json(tmp_path / "result.json", record | {"rows": {"train": 90, "held out": 10}})
    text = text_of(render_at(tmp_path))
    # Wilson's interval of 6 in 10, which holds 55%
    assert "Reward accuracy 60% 95% interval 31.3% to 83.2%" in text
    assert "the better length rule manages 55%, which is no measurable difference" in text


@pytest.mark.parametrize(
    ("reward", "title", "caption"),
    [
        ({"_target_": "lightning_rlhf.rewards.load_reward", "path": "m"}, "reward model", "is reward hacking"),
        (
            {"_target_": "lightning_rlhf.rewards.TextReward", "function": "mine:is_<b>short"},
            "function is_&lt;b&gt;short",
            "pays for something else",
        ),
        (
            {"_target_": "lightning_rlhf.rewards.TextReward", "function": {"_target_": "a.rules.Length"}},
            "function Length",
            "pays for something else",
        ),
        (
            {
                "parts": {
                    "a": {"_target_": "x.load_reward", "path": "m"},
                    "b": {"_target_": "TextReward", "function": "f"},
                }
            },
            "sum of reward model, function f",
            "is reward hacking",
        ),
    ],
)
def test_titles_and_captions_fit_the_reward(tmp_path: Path, reward: Any, title: str, caption: str) -> None:
    make_ppo(tmp_path)
    write_settings(tmp_path, reward=reward)
    html = render_at(tmp_path)
    assert f"Score of the {title}" in titles(html)
    assert caption in html


def test_a_stage_without_a_score_is_not_told_of_reward_hacking(tmp_path: Path) -> None:
    for make in (make_sft, make_dpo):
        record = make(tmp_path / record_name(make))
        rows = [{"epoch": 0, "step": step, "val/gold_rate": rate} for step, rate in ((9, 0.2), (19, 0.4))]
        write_rows(tmp_path / record_name(make), rows)
        write_json(tmp_path / record_name(make) / "result.json", record)
        html = render_at(tmp_path / record_name(make))
        assert "Gold metric" in titles(html)
        assert "hacking" not in html


def record_name(make: Any) -> str:
    return make.__name__.removeprefix("make_")


def test_constant_metrics_are_named_and_get_no_picture(tmp_path: Path) -> None:
    make_ppo(tmp_path)
    write_rows(
        tmp_path, [row | {"rollout/kl_coef": 0.05, "rollout/eos_rate": 1.0, "val/eos_rate": 1} for row in ppo_rows(9)]
    )
    html = render_at(tmp_path)
    assert not {"KL coefficient", "Answers that end by themselves"} & set(titles(html))
    assert "The same throughout: KL coefficient 0.05." in text_of(html)
    assert "The same throughout: Answers that end by themselves 100%." in text_of(html)


def test_lines_that_are_each_constant_get_no_picture_either(tmp_path: Path) -> None:
    make_ppo(tmp_path)
    rates = {"train/lr": 1e-4, "train/lr_actor": 1e-4, "train/lr_critic": 5e-4}
    write_rows(tmp_path, [row | rates for row in ppo_rows(9)])
    html = render_at(tmp_path)
    assert "Learning rate" not in titles(html)
    assert "Learning rate 1e−4 (actor), 5e−4 (critic)" in text_of(html)


def test_every_cell_of_a_table_names_its_column_for_narrow_screens(page: str) -> None:
    tables = re.findall(r'<table class="stacks.*?</table>', page, re.DOTALL)
    assert len(tables) == page.count("<table") > 3
    for table in tables:
        columns = re.findall(r"<th[^>]*>([^<]*)</th>", table)
        for row in re.findall(r"<tr><td.*?</tr>", table, re.DOTALL):
            labels = re.findall(r'data-label="([^"]*)"', row)
            # The cell that names the row may do without.
            assert labels in (columns, columns[1:])


def test_the_card_says_where_averaged_weights_are(tmp_path: Path) -> None:
    (tmp_path / "model_ema").mkdir()
    write_json(tmp_path / "result.json", make_sft(tmp_path) | {"model_dir": str(tmp_path / "model")})
    assert "model/ has the last weights, and model_ema/ their average over the steps." in text_of(render_at(tmp_path))


def test_a_noisy_curve_is_smoothed_and_says_so(page: str, tmp_path: Path) -> None:
    assert "updates, smoothed" in page
    make_sft(tmp_path)
    rows = [{"epoch": 0, "step": step, "train/loss": 1 / (1 + step)} for step in range(100)]
    write_rows(tmp_path, rows)
    html = render_at(tmp_path)
    assert ", smoothed" not in html
    assert "It begins at 1, outside the picture." in html


def test_the_contents_lead_to_every_section_and_the_files_exist(pipeline: Path, page: str) -> None:
    assert re.findall(r'<a href="#([^"]+)">', page) == re.findall(r'<section id="([^"]+)"', page)
    assert {"answers", "sft", "reward", "ppo", "health", "costs", "again", "load", "setup", "files"} <= set(
        re.findall(r'<section id="([^"]+)"', page)
    )
    links = [unescape(link) for link in re.findall(r'href="([^#"]+)"', page)]
    assert {"./result.json", "./sft/metrics.csv", "./ppo/samples.jsonl", "./reward/config.yaml"} <= set(links)
    assert all((pipeline / link).exists() for link in links)


def test_a_path_of_a_result_never_becomes_an_address_of_another_kind(tmp_path: Path) -> None:
    folder = tmp_path / "javascript:alert(1)" / "mo del"
    folder.mkdir(parents=True)
    write_json(tmp_path / "run" / "result.json", make_sft(tmp_path / "run") | {"model_dir": str(folder)})
    html = render_at(tmp_path / "run")
    assert 'href="./../javascript%3Aalert%281%29/mo%20del/"' in html
    write_json(tmp_path / "run" / "result.json", make_sft(tmp_path / "run") | {"model_dir": "javascript:alert(1)"})
    assert 'href="javascript' not in render_at(tmp_path / "run")


def test_the_card_of_a_stage_leads_to_that_of_its_pipeline_and_the_run_of_a_sweep_names_it(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path / "whole")
    assert "part of" not in text_of(render_at(pipeline))
    assert 'part of <a href="../report.html">a pipeline</a>' in render_at(pipeline / "sft")
    write_json(tmp_path / "sweeps" / "3" / "result.json", make_sft(tmp_path / "sweeps" / "3"))
    (tmp_path / "sweeps" / "multirun.yaml").touch()
    html = render_at(tmp_path / "sweeps" / "3")
    assert 'part of <a href="../">a sweep</a>' in html
    assert "<b>sweeps/3</b>" in html


def test_the_setup_says_what_was_trained_on_what_with_what(tmp_path: Path) -> None:
    facts = {
        "rows": {"train": 2400, "held out": 120, "answered": 0},
        "parameters": {
            "actor": {"total": 6_740_000_000, "trained": 4_000_000},
            "reference": {"total": 9, "trained": 0},
        },
        "hardware": {"device": "H<200>", "processes": 8, "machines": 2},
        "git": {"my-project": "abc123 with uncommitted changes"},
    }
    write_json(tmp_path / "result.json", make_ppo(tmp_path) | facts)
    module = {"lr": 1e-6, "critic_lr": 1e-5, "minibatch_size": 32, "kl_coef": 0.05}
    write_settings(tmp_path, model={"pretrained": "org/model"}, ppo={"module": module, "trainer": {"max_epochs": 60}})
    setup = text_of(render_at(tmp_path).split('<section id="setup">')[1])
    for row in (
        "Start model org/model",
        "Weights actor 6.74 billion (4 million trained), reference 9 (frozen)",
        "Rows to train on 2,400",
        "Held-out rows 120",
        # There is no critic among the models.
        "Learning rate 1e−6 Minibatch 32",
        "Hardware H<200>, 8 processes on 2 machines",
        "my-project (git) abc123 with uncommitted changes",
    ):
        assert row in setup
    assert "Prompts to answer" not in setup


def test_a_minibatch_of_fewer_rows_than_the_setting_is_told_as_it_was(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", make_sft(tmp_path) | {"minibatch_size": 40})
    write_settings(tmp_path, sft={"module": {"lr": 1e-3}, "data": {"minibatch_size": 64}})
    assert "Minibatch 40 (setting: 64)" in text_of(render_at(tmp_path))
    (record,) = training_records(tmp_path, "sft", {})
    assert record["settings"]["minibatch_size"] == 40


def test_a_record_tells_into_how_many_parts_a_minibatch_was_divided(tmp_path: Path) -> None:
    write_settings(tmp_path, sft={"data": {"minibatch_size": 64}, "trainer": {"accumulate_grad_batches": 2}})
    (record,) = training_records(tmp_path, "sft", {})
    assert record["settings"]["trainer"] == {"accumulate_grad_batches": 2}
    write_json(tmp_path / "result.json", make_sft(tmp_path) | {"accumulate_grad_batches": 16})
    (record,) = training_records(tmp_path, "sft", {})
    assert record["settings"]["trainer"]["accumulate_grad_batches"] == 16


def test_a_resumed_run_says_so_and_is_repeated_without_its_checkpoint(tmp_path: Path) -> None:
    write_json(
        tmp_path / "result.json", make_sft(tmp_path) | {"resumed_from": "there/last.ckpt", "status": "interrupted"}
    )
    write_hydra(tmp_path, ["stage=sft", "resume=there"])
    text = text_of(render_at(tmp_path))
    assert "interrupted, resumed" in text
    assert "python train.py stage=sft One click" in text


def test_a_metric_that_strict_json_cannot_hold_is_not_a_number(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", result("sft", loss=1.0) | {"metrics": {"perplexity": None}})
    assert "Perplexity NaN" in text_of(render_at(tmp_path))


def test_scores_that_are_not_finite_are_neither_unchanged_nor_in_an_interval(tmp_path: Path) -> None:
    scores_of(tmp_path, [0.5] * 9, [math.nan] * 9)
    text = text_of(render_at(tmp_path))
    assert "Score 0.5 → NaN mean over" in text
    assert "PPO left" not in text


def test_answers_that_nothing_judges_are_not_called_the_best(tmp_path: Path) -> None:
    row = sample(1, "evaluation", "p", "a.", 0, 0, None) | {"score": None}
    write_samples(tmp_path, [row])
    text = text_of(render_at(tmp_path))
    assert "These are answers to held-out prompts. User p Iteration 1" in text


@pytest.mark.parametrize(
    ("newest", "said"),
    [
        (["a", "b", "c"], "None of 3 answers differs from the answer before training."),
        (["a", "x", "c"], "Of 3 answers, 1 differs from the answer before training; it comes first."),
        (["a", "x", "y"], "Of 3 answers, 2 differ from the answers before training; they come first."),
    ],
)
def test_where_no_number_has_changed_the_page_counts_the_answers_that_differ(
    newest: list[str], said: str, tmp_path: Path
) -> None:
    rows = [
        sample(at, "evaluation", "p", response, 0, 0, None, row=row)
        for at, responses in enumerate((["a", "b", "c"], newest))
        for row, response in enumerate(responses)
    ]
    write_samples(tmp_path, rows)
    assert said in text_of(render_at(tmp_path))
    # Those that differ come first, and all others keep their order.
    differ = [row for row in range(3) if newest[row] != "abc"[row]]
    assert [row for row, *_ in answered(tmp_path)][: len(differ)] == differ
