"""From a chat model to trained stages: data are generated, judged and imported, and then trained on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from openai_server import OpenAIServer, serving
from support import TINY, command, keep, result_of, run_folder, tiny_source

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.synthesis.local import LocalChatModel

pytestmark = pytest.mark.slow
DATA = ["experiment=none", "data=files", "data.max_length=2000", "data.max_prompt_length=1500"]


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    """A server with the smallest model of ours behind it, which also plays a judge."""
    source = tiny_source()
    net: Any = load_causal_lm(source).eval()
    model = LocalChatModel(
        NativeEngine(net, torch.device("cpu")), Renderer(source.load_tokenizer()), Sampling(max_new_tokens=12)
    )

    def say(messages: list[dict[str, str]]) -> str:
        text = model.invoke([(message["role"], message["content"]) for message in messages]).text
        asked = messages[0]["content"]
        if asked.startswith("You grade"):
            return f"{text}\nScore: {len(messages[1]['content']) % 6}"
        if asked.startswith("You compare"):
            answer = messages[1]["content"].partition("<answer_A>")[2]
            first, _, second = answer.partition("<answer_B>")
            return f"{text}\nBetter: {'A' if len(first) > len(second) else 'B'}"
        return text or "nothing"

    with serving(say) as server:
        yield server


@pytest.fixture(scope="module")
def generated(server: OpenAIServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 20 conversations."""
    folder = tmp_path_factory.mktemp("generated")
    done = command(
        folder,
        *("llm=openai_compatible", f"llm.base_url={server.url}", "llm.model=openai:tiny", "num_conversations=20"),
        *("num_exchanges=2", "output_dir=data", "near_duplicates=null"),
        name="generate-dataset",
    )
    assert done.returncode == 0, done.stderr
    return folder / "data"


def trained(folder: Path, stage: str, path: Path, *overrides: str) -> dict[str, Any]:
    done = command(folder, *keep(TINY, stage), *DATA, f"data.path={path}", *overrides)
    assert done.returncode == 0, done.stderr
    return result_of(run_folder(folder))


def judged(server: OpenAIServer, folder: Path, data: Path, *overrides: str) -> Path:
    llm = ["llm=openai_compatible", f"llm.base_url={server.url}", "llm.model=openai:judge"]
    done = command(folder, *llm, f"path={data}", "output=judged.jsonl", *overrides, name="score-dataset")
    assert done.returncode == 0, done.stderr
    return folder / "judged.jsonl"


@pytest.mark.parametrize(("stage", "file"), [("sft", "demonstrations"), ("ppo", "prompts")])
def test_what_is_generated_trains_sft_and_ppo(stage: str, file: str, generated: Path, tmp_path: Path) -> None:
    reward = ["reward=length", "reward.function.maximum=5"] if stage == "ppo" else []
    assert trained(tmp_path, stage, generated / f"{file}.jsonl", *reward)["status"] == "finished"


def test_scores_of_a_judge_train_a_reward_model_by_regression(
    server: OpenAIServer, generated: Path, tmp_path: Path
) -> None:
    file = judged(server, tmp_path, generated / "unscored.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == len((generated / "unscored.jsonl").read_text().splitlines())
    assert {row["score"] for row in rows} <= set(range(6))
    result = trained(tmp_path, "reward", file, "reward_model.data.objective=regression")
    assert result["status"] == "finished"


def test_comparisons_of_a_judge_train_a_reward_model_by_pairs(
    server: OpenAIServer, generated: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (generated / "unscored.jsonl").read_text().splitlines()]
    pairs = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": "No."} for row in rows]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    file = judged(server, tmp_path, data, "mode=compare")
    assert trained(tmp_path, "reward", file)["status"] == "finished"


def test_a_local_model_makes_data_without_a_server(tmp_path: Path) -> None:
    words = ["llm=local", "model=tiny", "llm.max_tokens=8", "num_conversations=3", "num_exchanges=1", "output_dir=data"]
    done = command(tmp_path, *words, name="generate-dataset")
    assert done.returncode == 0, done.stderr
    result = result_of(tmp_path / "data")
    assert result["metrics"]["conversations"] == 3
    assert result["metrics"]["usd"] == 0


def test_what_is_imported_trains_a_reward_model(tmp_path: Path) -> None:
    turns = "\n\nHuman: My kettle leaks, number {}.\n\nAssistant: {}"
    rows = [{"chosen": turns.format(n, "Tighten it."), "rejected": turns.format(n, "No.")} for n in range(40)]
    file = tmp_path / "hh.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = command(tmp_path, "layout=hh", f"path={file}", "output_dir=hh", name="import-dataset")
    assert done.returncode == 0, done.stderr
    assert trained(tmp_path, "reward", tmp_path / "hh" / "preferences.jsonl")["status"] == "finished"


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("generate-dataset", ["num_conversations=many"], "num_conversations=many: expected a whole number"),
        ("generate-dataset", ["llm.temprature=1"], "did you mean 'llm.temperature'?"),
        ("generate-dataset", ["llm=openia"], "there is no llm=openia; there are anthropic, local, ollama, openai,"),
        ("generate-dataset", ["llm=openai_compatible", "llm.model=m"], "llm.base_url is not set"),
        (
            "generate-dataset",
            ["seed=3", "model=tiny"],
            "seed=3, model=tiny: this describes the model of llm=local alone",
        ),
        ("score-dataset", ["output=o.jsonl"], "path is not set: give it as path=VALUE"),
        ("score-dataset", ["path=d.jsonl", "output=o.jsonl", "mode=rank"], "mode=rank: expected one of score, compare"),
        ("import-dataset", ["layout=hh", "output_dir=o", "path=none.jsonl"], "none.jsonl"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(name: str, words: list[str], message: str, tmp_path: Path) -> None:
    done = command(tmp_path, *words, name=name, OPENAI_API_KEY="none")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
