"""Other programs use an export: `transformers serve` through the client of OpenAI, and lm-eval."""

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import environ, free_port

from lightning_rlhf import ModelSource, Renderer, Sampling, export_model, load_causal_lm
from lightning_rlhf.rollout.speaker import load_speaker
from lightning_rlhf.seeding import RandomKey

ROOT = Path(__file__).parents[2]
TALK: Any = [
    {"role": "user", "content": "My kettle leaks."},
    {"role": "assistant", "content": "Tighten the seal."},
    {"role": "user", "content": "It leaks again."},
]


@pytest.fixture(scope="module")
def model(source: ModelSource, renderer: Renderer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(load_causal_lm(source), renderer, tmp_path_factory.mktemp("served") / "model", {})


@pytest.mark.slow
def test_transformers_serve_gives_the_answers_of_chat(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("openai")
    from transformers.utils.import_utils import is_serve_available

    if not is_serve_available():
        pytest.skip("transformers serve needs pip install 'transformers[serving]'")
    from openai import OpenAI

    port = free_port()
    serve = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model)]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*serve, "--port", str(port), "--host", "127.0.0.1", "--device", "cpu"],
            env=environ(),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server, tmp_path / "log")
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=60)
        speaker = load_speaker(str(model), "model_dir")
        for talk in (TALK[:1], TALK):
            greedy = Sampling(max_new_tokens=16, temperature=0)
            ours = list(speaker.stream(talk, greedy, RandomKey(0, (0,), row=0)))[-1]
            reply = client.chat.completions.create(
                model=str(model), messages=talk, temperature=0, max_tokens=16, stream=False
            )
            assert (reply.choices[0].message.content or "").strip() == ours.text
            assert reply.choices[0].finish_reason == ours.finish_reason
            pieces = client.chat.completions.create(
                model=str(model), messages=talk, temperature=0, max_tokens=16, stream=True
            )
            text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
            assert text.strip() == ours.text
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.mark.slow
def test_the_recipe_for_lm_eval_measures_an_export(model: Path, tmp_path: Path) -> None:
    if find_spec("lm_eval") is None:
        pytest.skip("lm-eval is not installed: pip install 'lm-eval[hf]'")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={model}"),
            *("--tasks", "help_desk", "--include_path", "examples/lm_eval", "--apply_chat_template", "--device", "cpu"),
            *("--limit", "8", "--output_path", str(tmp_path)),
        ],
        cwd=ROOT,
        env=environ(HF_DATASETS_CACHE=str(tmp_path / "cache")),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = tmp_path.rglob("results_*.json")
    found = json.loads(file.read_text())["results"]["help_desk"]
    # lm-eval is given the same prompts as our scorer, so it finds the same likelier answers.
    assert found["acc,none"] == pytest.approx(_share_likelier(model, 8))


def _share_likelier(model: Path, count: int) -> float:
    """Computes how often the chosen answer is likelier, from the logits of the model."""
    import torch

    speaker = load_speaker(str(model), "model_dir")
    lines = (ROOT / "src/lightning_rlhf/demo/preferences_held_out.jsonl").read_text().splitlines()[:count]
    hits = 0
    for row in map(json.loads, lines):
        sums = []
        for name in ("chosen", "rejected"):
            start = speaker.renderer.prompt([{"role": "user", "content": row["prompt"]}])
            text = speaker.renderer.tokenizer.apply_chat_template(
                [{"role": "user", "content": row["prompt"]}], tokenize=False, add_generation_prompt=True
            )
            ids = speaker.renderer.tokenizer.encode(text + row[name], add_special_tokens=False)
            with torch.no_grad():
                logits = speaker.net(torch.tensor([ids])).logits[0].log_softmax(-1)
            sums.append(sum(float(logits[place - 1, ids[place]]) for place in range(len(start), len(ids))))
        hits += sums[0] > sums[1]
    return hits / count
