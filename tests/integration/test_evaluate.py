"""`evaluate` as a user runs it: a reward model on preferences, and two models against each other."""

import json
import re
import shutil
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from answering import serving
from support import command, result_of, run_folder

from lightning_rlhf import ModelSource, Renderer, export_model, load_causal_lm, load_scalar_model
from lightning_rlhf.rewards.build import load_reward
from lightning_rlhf.rewards.net import TextNetReward

DEMO = files("lightning_rlhf.demo")


@pytest.fixture(scope="module")
def models(source: ModelSource, renderer: Renderer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and a reward model with random weights, in folders."""
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("a", 1), ("b", 2)):
        export_model(load_causal_lm(replace(source, seed=seed)), renderer, folder / name, {})
    torch.manual_seed(1)
    export_model(load_scalar_model(source, "normal"), renderer, folder / "reward", {})
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("preferences_held_out", 30), ("prompts_held_out", 12)):
        lines = (DEMO / f"{name}.jsonl").read_text().splitlines()[:count]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_reward_model_is_measured_as_its_scores_say(models: Path, data: Path, tmp_path: Path) -> None:
    pairs = rows_of(data / "preferences_held_out.jsonl")
    done = command(
        tmp_path,
        f"reward_model={models / 'reward'}",
        f"preferences={data / 'preferences_held_out.jsonl'}",
        name="evaluate",
    )
    assert done.returncode == 0, done.stderr
    result = result_of(run_folder(tmp_path))
    net, renderer = load_reward(str(models / "reward"))
    reward = TextNetReward(net.eval(), renderer, renderer.stop_ids)

    @torch.no_grad()
    def score(pair: dict[str, Any], name: str) -> float:
        turns: Any = [{"role": "user", "content": pair["prompt"]}, {"role": "assistant", "content": pair[name]}]
        return float(reward.score([turns], [True]))

    gaps = torch.tensor([score(pair, "chosen") - score(pair, "rejected") for pair in pairs])
    assert result["metrics"]["accuracy"] == pytest.approx(float((gaps > 0).float().mean()))
    expected = float(torch.nn.functional.softplus(-gaps).mean())
    assert result["metrics"]["log_loss"] == pytest.approx(expected, abs=1e-4)
    assert result["rows"] == {"evaluated": 30, "left out": 0}
    scores = rows_of(run_folder(tmp_path) / "scores.jsonl")
    assert [row["scores"][0] - row["scores"][1] for row in scores] == pytest.approx(gaps.tolist(), abs=1e-4)
    assert "reward model" in done.stdout
    assert "the longer answer wins" in done.stdout
    # A random model is no better than a rule about length.
    above = result["metrics"]["above_length"]
    way = "more" if above >= 0 else "less"
    assert f"The model is right {100 * abs(above):.1f} points (" in done.stdout
    assert f"{way} often than the better rule about length: these rows do not show" in done.stdout


def test_a_file_of_rewardbench_2_is_measured_by_subset(models: Path, tmp_path: Path) -> None:
    lines = []
    for number, pair in enumerate(rows_of(Path(str(DEMO / "preferences_held_out.jsonl")))[:8]):
        # A conversation that is too long for the model is left out.
        prompt = "kettle " * 600 if number == 7 else pair["prompt"]
        rejected = [pair["rejected"], "Go away.", "Hm."]
        row = {"id": str(number), "prompt": prompt, "chosen": [pair["chosen"]], "rejected": rejected}
        lines.append(json.dumps(row | {"subset": "Math" if number % 2 else "Focus"}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    done = command(tmp_path, f"reward_model={models / 'reward'}", "preferences=rows.jsonl", name="evaluate")
    assert done.returncode == 0, done.stderr
    result = result_of(run_folder(tmp_path))
    assert {name: one["num_rows"] for name, one in result["by_source"].items()} == {"Focus": 4, "Math": 3}
    scores = rows_of(run_folder(tmp_path) / "scores.jsonl")
    assert {len(row["scores"]) for row in scores} == {4}
    right = [row["scores"][0] > max(row["scores"][1:]) for row in scores]
    assert result["metrics"]["accuracy"] == pytest.approx(sum(right) / 7)
    assert "rows left out: 1" in done.stdout
    assert "reads at most 512" in done.stdout


def test_two_models_are_compared_and_people_have_their_say(models: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "golds.py").write_text(
        "def short(prompts, responses):\n    return [float(-len(response)) for response in responses]\n"
    )
    prompts = data / "prompts_held_out.jsonl"
    done = command(
        tmp_path,
        *(f"a={models / 'a'}", f"b={models / 'b'}", f"prompts={prompts}", f"reward_model={models / 'reward'}"),
        *("gold=golds:short", "sampling.max_new_tokens=16"),
        name="evaluate",
    )
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path)
    result, answers = result_of(folder), rows_of(folder / "answers.jsonl")
    assert [row["messages"][0]["content"] for row in answers] == [row["prompt"] for row in rows_of(prompts)]
    assert len({row["a"]["text"] for row in answers}) > 6
    lengths = [(len(row["a"]["text"]), len(row["b"]["text"])) for row in answers]
    wins = [1.0 if a < b else 0.5 * (a == b) for a, b in lengths]
    assert result["metrics"]["gold_win_rate"] == pytest.approx(sum(wins) / 12)
    assert result["verdicts"]["gold"] == wins
    assert result["metrics"]["length_a"] == pytest.approx(sum(a for a, _ in lengths) / 12)
    judge = result["judges"]["reward"]
    assert judge["wins"] + judge["ties"] + judge["losses"] == 12
    # People choose the answer of a in every blind pair.
    by_a = {row["a"]["text"] for row in answers}
    chosen = [
        pair if pair["chosen"] in by_a else {**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]}
        for pair in rows_of(folder / "blind_pairs.jsonl")
    ]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    again = command(tmp_path, f"answers={folder}", "labels=labels.jsonl", "hydra.run.dir=people", name="evaluate")
    assert again.returncode == 0, again.stderr
    assert result_of(tmp_path / "people")["metrics"]["people_win_rate"] == 1.0
    assert "people: a is better than b" in again.stdout
    assert not (tmp_path / "people" / "answers.jsonl").exists()


def test_answers_are_kept_when_the_other_model_fails_and_the_evaluation_goes_on(
    models: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(models / "b", tmp_path / "b")
    weights = tmp_path / "b" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    line = [f"a={models / 'a'}", "b=b", f"prompts={data / 'prompts_held_out.jsonl'}", "sampling.max_new_tokens=8"]
    failed = command(tmp_path, *line, "hydra.run.dir=run", name="evaluate")
    assert failed.returncode == 2, failed.stderr
    refused = command(tmp_path, "answers=run", name="evaluate")
    assert "goes on if it is started again with hydra.run.dir=run" in refused.stderr
    file = tmp_path / "run" / "answers.a.jsonl"
    drawn = rows_of(file)
    assert len(drawn) == 12
    # One answer is lost, and another has words that no model has drawn.
    drawn[0]["reply"]["text"] = "from before"
    file.write_text("".join(json.dumps(row) + "\n" for row in drawn[:-1]))
    weights.write_bytes(whole)
    done = command(tmp_path, *line, "hydra.run.dir=run", name="evaluate")
    assert done.returncode == 0, done.stderr
    answers = rows_of(tmp_path / "run" / "answers.jsonl")
    texts = sorted(row["a"]["text"] for row in answers)
    assert texts == sorted(row["reply"]["text"] for row in drawn)
    assert len({row["b"]["text"] for row in answers}) > 6
    assert not list((tmp_path / "run").glob("answers.?.jsonl"))


def test_a_chat_model_on_a_server_judges_in_both_orders(models: Path, data: Path, tmp_path: Path) -> None:
    def shorter(_: str, body: Any) -> tuple[int, Any]:
        first, second = re.findall(r"<answer_[AB]>\n(.*?)\n</answer_[AB]>", body["messages"][-1]["content"], re.DOTALL)
        said = "tie" if len(first) == len(second) else "A" if len(first) < len(second) else "B"
        message = {"role": "assistant", "content": f"Let me see.\nBetter: {said}"}
        head = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return 200, {**head, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}

    with serving(shorter) as (server,):
        done = command(
            tmp_path,
            *(f"a={models / 'a'}", f"b={models / 'b'}", f"prompts={data / 'prompts_held_out.jsonl'}", "limit=6"),
            *("judge.model=openai:some-model", f"+judge.settings.base_url={server.url}/v1"),
            *("+judge.settings.api_key=none", "judge.rubric=whether it is short", "sampling.max_new_tokens=12"),
            name="evaluate",
        )
    assert done.returncode == 0, done.stderr
    result, answers = result_of(run_folder(tmp_path)), rows_of(run_folder(tmp_path) / "answers.jsonl")
    assert len(rows_of(run_folder(tmp_path) / "judge.verdicts.jsonl")) > 0
    lengths = [(len(row["a"]["text"]), len(row["b"]["text"])) for row in answers]
    assert result["verdicts"]["judge"] == [0.5 if a == b else float(a < b) for a, b in lengths]
    judge = result["judges"]["judge"]
    assert (judge["order_disagreements"], judge["unreadable"], judge["missing"]) == ([], [], 0)
    assert len(server.seen) == 2 * sum(row["a"]["text"] != row["b"]["text"] for row in answers)
    assert "whether it is short" in server.seen[0][1]["messages"][0]["content"]
    assert "said something else when the answers were swapped on 0 of 6 prompts" in done.stdout
    assert "The answer that came first won in 50.0% of its verdicts." in done.stdout


def test_a_prompt_that_is_too_long_is_skipped_or_named_before_anything_is_drawn(models: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "My kettle leaks."}, {"prompt": "kettle " * 600}, {"prompt": "Hello"}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = [f"a={models / 'a'}", f"b={models / 'b'}", "prompts=prompts.jsonl", "sampling.max_new_tokens=4"]
    refused = command(tmp_path, *own, name="evaluate")
    assert refused.returncode == 2
    assert "data 'prompts.jsonl' holds rows that cannot be used" in refused.stderr
    assert "prompts.jsonl:2: sampling.max_new_tokens=4: " in refused.stderr
    done = command(tmp_path, *own, "data.on_error=skip", name="evaluate")
    assert done.returncode == 0, done.stderr
    assert [row["messages"][0]["content"] for row in rows_of(run_folder(tmp_path) / "answers.jsonl")] == [
        "My kettle leaks.",
        "Hello",
    ]
    assert "rows left out: 1" in done.stdout
    assert "No judge is named" in done.stdout


def test_a_model_against_itself_ties(models: Path, data: Path, tmp_path: Path) -> None:
    done = command(
        tmp_path,
        *(f"a={models / 'a'}", f"b={models / 'a'}", f"prompts={data / 'prompts_held_out.jsonl'}", "limit=5"),
        *(f"reward_model={models / 'reward'}", "sampling.max_new_tokens=8"),
        name="evaluate",
    )
    assert done.returncode == 0, done.stderr
    result = result_of(run_folder(tmp_path))
    # Both draw with the same random numbers.
    assert result["verdicts"]["reward"] == [0.5] * 5
    assert result["metrics"]["reward_win_rate"] == 0.5
    assert (run_folder(tmp_path) / "blind_pairs.jsonl").read_text() == ""
    assert "no clear difference" in done.stdout


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "nothing to evaluate: give reward_model=FOLDER preferences=FILE, or a=FOLDER b=FOLDER prompts=FILE"),
        (["a=x", "b=y"], "prompts is not set: two models are compared by a=FOLDER b=FOLDER prompts=FILE"),
        (["preferences=p.jsonl"], "preferences=p.jsonl: give the reward model to evaluate as reward_model=FOLDER"),
        (
            ["preferences=p.jsonl", "reward_model=r", "gold=m:f"],
            "gold=m:f: preferences=p.jsonl evaluates a reward model: leave out one of them",
        ),
        (["labels=l.jsonl", "a=x", "b=y", "prompts=p"], "labels=l.jsonl: give the folder of the evaluation whose"),
        (["answers=x", "prompts=p"], "prompts=p: answers=x has the answers already: leave out one of them"),
        (["answers=x", "labels=l.jsonl", "limit=5"], "limit=5: the labels may belong to any row of the answers"),
        (["answers=x", "source_column=topic"], "source_column=topic: only preferences=FILE have sources"),
        (["answers=x", "sampling.top_k=5"], "sampling.top_k=5: nothing is drawn with answers=x"),
        (["answers=x", "+judge.settings.api_key=secret"], "judge.settings.api_key: a key in the settings is written"),
        (["limit=0", "answers=x"], "limit=0: must be positive, or null"),
        (["answers=x", "judge.max_concurrency=many"], "judge.max_concurrency=many: expected a whole number"),
        (["answers=x", "dtype=float8"], "dtype=float8: expected one of float32, bfloat16, float16"),
        (["answers=x", "sampling.top_p=2"], "top_p=2: must lie in (0, 1]"),
        (["answers=nowhere"], "answers=nowhere: there is no answers.jsonl; name the folder of an earlier evaluation"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(overrides: list[str], message: str, tmp_path: Path) -> None:
    done = command(tmp_path, *overrides, name="evaluate")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert not (tmp_path / "outputs").exists()
