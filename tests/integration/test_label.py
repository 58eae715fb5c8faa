"""`lightning-rlhf label` in a process of its own."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from labelling import Server, post, rows, server, write_pairs
from support import TINY, command, free_port, keep, result_of, run_folder

from lightning_rlhf import ModelSource, Renderer, load_causal_lm
from lightning_rlhf.data.formats import read_records
from lightning_rlhf.models.export import export_model


def asked(state: Any) -> dict[str, Any]:
    return {name: state["question"][name] for name in ("item", "round", "token")}


def test_a_killed_server_loses_nothing_and_asks_nothing_twice(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 12)
    words = ("pairs=pairs.jsonl", f"port={free_port()}", "repeats=0", "seed=2")
    questions, confirmed = [], []
    while len(questions) < 12:
        with server(tmp_path, *words) as running:
            state = post(running.url, "/question")
            for pick in (0, 1, 0, 0, 1, 1):
                questions.append(asked(state))
                state = post(running.url, "/answer", **asked(state), verdict="better", pick=pick, comment=str(pick))
                confirmed.append(state["last"])
            before = (tmp_path / "labels.jsonl").read_bytes()
            running.kill()
        assert (tmp_path / "labels.jsonl").read_bytes() == before
    assert len({question["item"] for question in questions}) == 12
    assert [row["label"]["id"] for row in rows(tmp_path / "labels.jsonl")] == confirmed
    records = read_records(str(tmp_path / "labels.jsonl"), "pair").rows
    assert len(records) == 12
    with server(tmp_path, *words) as running:
        assert post(running.url, "/question")["state"] == "done"
        told = running.stop().splitlines()
    assert told[0] == "stopped; labels.jsonl has 12 choices of 1 person (12 better)"
    for source, count in wins(tmp_path).items():
        assert f"  {source} was better {count} times" in told
    assert any(line.startswith(f"  ann and the file agree on {wins(tmp_path)['chosen']} of 12 items") for line in told)
    assert (
        told[-1] == "train on it: lightning-rlhf train experiment=none stage=reward data=files data.path=labels.jsonl"
    )


def test_labels_of_blind_pairs_are_verdicts_on_models_and_nothing_to_learn_from(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    blind = [{**pair, "blind": True} for pair in write_pairs(tmp_path / "pairs.jsonl", 3)]
    (tmp_path / "run" / "blind_pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in blind))
    with server(tmp_path, "pairs=run/blind_pairs.jsonl", "port=0", "repeats=0") as running:
        assert label_all(running) == 3
        assert httpx.get(f"{running.url}/people", timeout=60).json()["agreements"] == []
        told = running.stop().splitlines()
    assert told == [
        "stopped; labels.jsonl has 3 choices of 1 person (3 better)",
        "see what it means: lightning-rlhf evaluate answers=run labels=labels.jsonl",
    ]


def test_a_team_hears_on_the_page_and_in_the_end_how_far_all_agree(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 5)
    with server(tmp_path, "pairs=pairs.jsonl", "port=0", "repeats=0", "shared=1") as running:
        for person in ("ann", "bob"):
            assert label_all(running, person) == 5
        assert httpx.get(f"{running.url}/people", timeout=60).json()["team"] is None
        assert label_all(running, "cid") == 5
        team = httpx.get(f"{running.url}/people", timeout=60).json()["team"]
        told = running.stop()
    best: dict[str, set[int]] = {}
    for row in rows(tmp_path / "labels.jsonl"):
        best.setdefault(row["prompt"][0]["content"], set()).add(row["label"]["best"])
    agreed = sum(len(one) == 1 for one in best.values())
    assert (team["shared"], team["agreed"]) == (5, agreed)
    known = "" if team["kappa"] is None else f" (Fleiss' kappa {team['kappa']:.2f})"
    assert f"  all agree on {agreed} of 5 items{known}\n" in told


def wins(folder: Path) -> dict[str, int]:
    """Counts how often people and file agree, and how often not, in the order of the first item."""
    counts: dict[str, int] = {}
    for row in rows(folder / "labels.jsonl"):
        sources = row["label"]["sources"]
        for source in sources:
            counts.setdefault(source, 0)
        counts[sources[row["label"]["best"]]] += 1
    return counts


@pytest.fixture(scope="module")
def models(source: ModelSource, renderer: Renderer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        name: export_model(load_causal_lm(replace(source, seed=seed)), renderer, folder / name, {})
        for name, seed in (("one", 1), ("other", 2))
    }


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "My kettle leaks."}\n{"prompt": "My door is stuck."}\n{"prompt": "Hello"}\n')
    return file


def label_all(running: Server, person: str = "ann") -> int:
    """Answers every question with its first answer, and returns their number."""
    state = post(running.url, "/question", person=person)
    while state["state"] != "done":
        assert state["state"] in ("ask", "wait"), state["message"]
        if state["state"] == "wait":
            state = post(running.url, "/question", person=person)
        else:
            state = post(running.url, "/answer", person=person, **asked(state), verdict="better", pick=0)
    return state["progress"]["done"]


@pytest.mark.slow
def test_samples_of_a_model_are_drawn_once_and_become_pairs(
    models: dict[str, Path], prompts: Path, tmp_path: Path
) -> None:
    words = (f"model_dir={models['one']}", "prompts=prompts.jsonl", "port=0", "num_samples=3", "max_new_tokens=6")
    with server(tmp_path, *words, "out=new/labels.jsonl", "repeats=0") as running:
        assert label_all(running) == 3
        items = rows(tmp_path / "new" / "labels.items.jsonl")
        running.kill()
    assert [item["prompt"][0]["content"] for item in items] == ["My kettle leaks.", "My door is stuck.", "Hello"]
    assert {answer["source"] for item in items for answer in item["answers"]} == {str(models["one"])}
    # The best of three is better than two others.
    assert len(read_records(str(tmp_path / "new" / "labels.jsonl"), "pair").rows) == 6
    # The same model may be named by another path.
    words = (f"model_dir={os.path.relpath(models['one'], tmp_path)}", *words[1:])
    with server(tmp_path, *words, "out=new/labels.jsonl") as running:
        assert label_all(running) == 3
        assert rows(tmp_path / "new" / "labels.items.jsonl") == items


def test_two_models_are_compared(models: dict[str, Path], prompts: Path, tmp_path: Path) -> None:
    a, b = models["one"], models["other"]
    with server(tmp_path, f"a={a}", f"b={b}", "prompts=prompts.jsonl", "port=0", "max_new_tokens=6") as running:
        assert label_all(running) == 3
        told = running.stop()
    found = rows(tmp_path / "labels.jsonl")
    assert all(row["label"]["sources"] == [str(a), str(b)] for row in found)
    wins = [sum(row["label"]["best"] == place for row in found) for place in (0, 1)]
    assert f"  {a} was better {wins[0]} times\n  {b} was better {wins[1]} times\n" in told


def test_a_team_logs_in_with_a_password_from_the_environment(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 2)
    with server(
        tmp_path, "pairs=pairs.jsonl", "port=0", "host=0.0.0.0", "password=${oc.env:SECRET}", SECRET="open sesame"
    ) as running:
        url = running.url.replace("0.0.0.0", "127.0.0.1")
        with httpx.Client(base_url=url) as client:
            assert client.post("/question", json={"person": "ann"}).status_code == 401
            assert client.post("/login", json={"password": "open sesame"}).status_code == 200
            assert client.post("/question", json={"person": "ann"}).json()["state"] == "ask"
        assert "sesame" not in running.said


SOURCES = "set model_dir=DIR, a=DIR b=DIR, run=DIR (each with prompts=FILE), or pairs=FILE"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], f"label needs one source of answers, and was given nothing: {SOURCES}"),
        (["a=x", "prompts=p"], f"label needs one source of answers, and was given a: {SOURCES}"),
        (["model_dir=x", "run=y"], f"label needs one source of answers, and was given model_dir, run: {SOURCES}"),
        (["model_dir=x"], "prompts is not set: name a file of prompts"),
        (["pairs=x", "prompts=y"], "prompts=y: pairs=x has its own prompts and answers: set only one of them"),
        (
            ["model_dir=x", "prompts=y", "num_samples=5", "shared=2", "ahead=0"],
            "num_samples=5: must be from 2 to 4\nshared=2: must be from 0 to 1\nahead=0: must be positive",
        ),
        (["pairs=x", "num_samples=2"], "num_samples=2: has no effect with a and b, or with pairs: leave it out"),
        (["a=x", "b=y", "prompts=z", "num_samples=2"], "num_samples=2: has no effect with a and b"),
        (["pairs=x", "port=web"], "port=web: expected a whole number"),
        (
            ["model_dir=x", "prompts=y", "temperature=0"],
            "temperature=0: all samples of one model would be equal",
        ),
        (["pairs=pairs.jsonl", "out=labels.csv"], "out=labels.csv: name a file whose name ends in .jsonl"),
        (["run=x", "prompts=pairs.jsonl"], "run=x: no such folder"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(words: list[str], message: str, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 1)
    done = command(tmp_path, *words, *(["port=0"] if "port=web" not in words else []), name="label")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {message}")
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["pairs.jsonl"]


def test_edited_answers_train_as_the_last_line_says(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 4)
    with server(tmp_path, "pairs=pairs.jsonl", "port=0", "repeats=0") as running:
        state = post(running.url, "/question")
        for number in range(4):
            edited = f"Better answer {number}"
            state = post(running.url, "/answer", **asked(state), verdict="better", pick=0, edited=edited)
        _, found, line = running.stop().splitlines()[-1].partition("and on edited answers: lightning-rlhf train ")
    assert found
    tiny = [word for word in keep(TINY, "sft") if word != "stage=sft" and not word.startswith("+")]
    done = command(tmp_path, *line.split(), *tiny, "data.val_fraction=0.25")
    assert done.returncode == 0, done.stderr
    result = result_of(run_folder(tmp_path))
    assert (result["status"], result["stage"]) == ("finished", "sft")
    # One of the four answers is held out.
    (labels,) = [one["found"] for one in result["checks"] if one["check"] == "labels"]
    assert labels.startswith("3 of 3 rows have tokens to learn")
    assert (run_folder(tmp_path) / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_run_is_followed_to_its_newest_weights(tmp_path: Path) -> None:
    tiny = [*keep(TINY, "sft"), "experiment=none", "data=files", "data.path=demonstrations.jsonl"]
    demonstrations = [{"prompt": f"Hello {n}", "completion": "Go away"} for n in range(8)]
    (tmp_path / "demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in demonstrations))
    # Batches have one, two and four prompts, and the last one begins when both before it have been asked about.
    prompts = "".join(json.dumps({"prompt": f"Hello {n}"}) + "\n" for n in range(7))
    (tmp_path / "prompts.jsonl").write_text(prompts)
    done = command(tmp_path, *tiny)
    assert done.returncode == 0, done.stderr
    run = run_folder(tmp_path)
    # A run that goes on has a checkpoint, and no export yet.
    (run / "model").rename(run / "later")
    words = (f"run={run}", "prompts=prompts.jsonl", "port=0", "max_new_tokens=6", "ahead=1", "repeats=0")
    with server(tmp_path, *words) as running:
        state = post(running.url, "/question")
        while state["state"] == "wait":
            state = post(running.url, "/question")
        (run / "later").rename(run / "model")
        (run / "model" / "config.json").touch()
        assert label_all(running) == 7
    sources = [row["label"]["sources"][0] for row in rows(tmp_path / "labels.jsonl")]
    assert sources[0].startswith(f"{run / 'checkpoints' / 'last.ckpt'} of 20")
    assert sources[-1].startswith(f"{run / 'model'} of 20")
    assert (tmp_path / "labels.model" / "config.json").is_file()
