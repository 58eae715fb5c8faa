"""The blocks of the documentation that no mark excludes run, with the smallest model and a few rows."""

import functools
import json
import re
import shutil
from pathlib import Path

import lightning
import pytest
from doc_blocks import BLOCKS, Block
from hydra import compose, initialize_config_module
from support import command, once, trainer

import lightning_rlhf.demo
from lightning_rlhf.stages import STAGES

pytestmark = pytest.mark.slow

SHELL = [block for block in BLOCKS if block.is_run and block.language == "bash" and block.commands]
PYTHON = [block for block in BLOCKS if block.is_run and block.language == "python"]
ROWS = 24
# What makes a stage short, by the name of its block.
SHORT = {
    "sft": ["sft.trainer.max_epochs=1", "+sft.trainer.limit_train_batches=2"],
    "reward_model": [
        "reward_model.trainer.max_epochs=1",
        "+reward_model.trainer.limit_train_batches=2",
        "reward_model.callbacks.normalize.num_samples=16",
    ],
    "dpo": ["dpo.trainer.max_epochs=1", "+dpo.trainer.limit_train_batches=2"],
    "ppo": ["ppo.trainer.max_epochs=1", "ppo.module.rollout_batch_size=16", "ppo.module.minibatch_size=8"],
}


def rows(name: str) -> list[dict[str, str]]:
    """The first rows of a file of the demo."""
    text = (Path(str(lightning_rlhf.demo.__file__)).parent / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()[:ROWS]]


def furnish(folder: Path) -> None:
    """Fills a folder with what the documentation takes for granted: files of data, runs, models, and modules."""
    folder.mkdir()
    pairs, demonstrations, prompts = rows("preferences"), rows("demonstrations"), rows("prompts")
    files = {
        "pairs.jsonl": pairs,
        "demonstrations.jsonl": demonstrations,
        "prompts.jsonl": prompts,
        "scored.jsonl": [{**row, "score": number % 6} for number, row in enumerate(demonstrations)],
        "sums.jsonl": [{"prompt": f"What is {n} plus 1?", "answer": str(n + 1)} for n in range(ROWS)],
        "qa.jsonl": [{"question": row["prompt"], "reply": row["completion"]} for row in demonstrations],
    }
    for name, data in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in data))
    told = [{"user_input": row["prompt"], "completion": row["completion"]} for row in demonstrations]
    (folder / "actor_training_data.json").write_text(json.dumps(told))
    (folder / "reward_training_data.json").write_text(json.dumps([{**row, "score": 3.0} for row in told]))
    (folder / "rlhf_training_data.json").write_text(json.dumps([{"user_input": row["prompt"]} for row in prompts]))
    for block in PYTHON:
        if module := re.search(r"\w+\.py$", block.title):
            (folder / module[0]).write_text(block.text)
    # The command of quick_start.md that trains the three stages.
    words = ["experiment=none", "model=tiny", "data=files", "data.path=pairs.jsonl"]
    done = command(folder, *short("train", words), "hydra.run.dir=outputs/pipeline/run")
    assert done.returncode == 0, done.stderr
    for stage in ("sft", "reward", "ppo"):
        shutil.copytree(folder / "outputs" / "pipeline" / "run" / stage, folder / "outputs" / stage / "run")
    for name, stage in (("base", "sft"), ("reward", "reward"), ("helpfulness", "reward")):
        shutil.copytree(folder / "outputs" / stage / "run" / "model", folder / "models" / name)


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "docs", furnish)


def short(name: str, words: list[str]) -> list[str]:
    """The words of a command with the smallest model, and with settings that make it short."""
    if name in ("chat", "report"):
        return words
    if name == "evaluate":
        return [*words, "limit=8", *(["sampling.max_new_tokens=8"] if any("a=" in word[:2] for word in words) else [])]
    words = [re.sub(r"^model=(?!base|tiny).*", "model=tiny", word) for word in words]
    if name == "plan":
        # A plan of three stages takes three times as long.
        return words if any(word.startswith("stage=") for word in words) else [*words, "stage=sft"]
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        plain = [re.sub(r"=([^,\[{]+),.*", r"=\1", word) for word in words if word != "-m"]
        stages = compose(name, [*plain, *(["run_dir=run"] if name == "train" else [])]).stages
    more = [word for stage in stages for word in SHORT[STAGES[stage].block]]
    if stages != ["sft"]:
        more.append("rollout.sampling.max_new_tokens=8")
    if name == "doctor":
        more = [word for word in more if "limit" not in word]
    keys = {word.lstrip("+").partition("=")[0] for word in more}
    return [*(word for word in words if word.partition("=")[0] not in keys), *more]


@functools.cache
def outcome(folder: Path, name: str, *words: str) -> tuple[int | None, str]:
    """Exit code and messages of a command, which runs once even if several pages show it."""
    done = command(folder, *short(name, list(words)), name=name)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.place)
def test_the_commands_of_a_block_run(block: Block, furnished: Path) -> None:
    for name, *words in block.commands:
        code, said = outcome(furnished, name, *words)
        # A check of doctor may find that so small a model is poor, and a plan that a run does not fit.
        assert code == 0 or (code == 1 and name in ("doctor", "plan")), f"{name} {' '.join(words)}\n{said}"


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.place)
def test_a_program_runs(block: Block, furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def brief(**settings: object) -> lightning.Trainer:
        return trainer(tmp_path, **{**settings, "limit_train_batches": 2, "max_epochs": 1})

    monkeypatch.setattr(lightning, "Trainer", brief)
    monkeypatch.chdir(furnished)
    text = block.text.replace("<run>", "run")
    exec(compile(text, block.place, "exec"), {"__name__": "docs"})


def test_a_program_with_a_name_is_imported_by_a_command_of_its_page() -> None:
    for block in PYTHON:
        if module := re.search(r"(\w+)\.py$", block.title):
            shown = [" ".join(words) for other in SHELL if other.page == block.page for words in other.commands]
            assert any(f"={module[1]}:" in words for words in shown)
