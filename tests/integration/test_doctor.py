"""`lightning-rlhf doctor`: as real processes, and its findings without starting processes."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from support import command, result_of, run_folder, tiny_source

from lightning_rlhf import export_model, load_causal_lm, load_scalar_model
from lightning_rlhf.assembly.examine import examine
from lightning_rlhf.data.render import Renderer

TINY = ["model=tiny", "rollout.sampling.max_new_tokens=8"]
SMALL = ["ppo.module.rollout_batch_size=16", "ppo.module.minibatch_size=8"]
PPO = [*TINY, *SMALL, "stage=ppo"]
GOLD = ["reward=function", "reward.function=lightning_rlhf.demo.gold:gold"]


def doctor(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Runs `lightning-rlhf doctor` in a folder."""
    return command(folder, *overrides, name="doctor")


def examined(folder: Path, *overrides: str) -> dict[str, Any]:
    """Does what the command does once Hydra has composed the configuration."""
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return examine(compose("train", list(overrides)), folder)


def findings(result: dict[str, Any], status: str) -> dict[str, dict[str, str]]:
    """Returns the findings of one status by `stage: check`."""
    return {f"{check['stage']}: {check['check']}": check for check in result["checks"] if check["status"] == status}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A reward model, one that gives all answers the same score, and a model without a head."""
    folder = tmp_path_factory.mktemp("models")
    source = tiny_source()
    tokenizer = source.load_tokenizer()
    return {
        "reward": export_model(load_scalar_model(source, "normal"), Renderer(tokenizer), folder / "reward", {}),
        "flat": export_model(load_scalar_model(source, "zero"), Renderer(tokenizer), folder / "flat", {}),
        "headless": export_model(load_causal_lm(source), Renderer(tokenizer), folder / "headless", {}),
    }


def test_a_sound_pipeline_passes(tmp_path: Path) -> None:
    done = doctor(tmp_path, *TINY, *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    result = result_of(run_folder(tmp_path))
    assert (result["stage"], result["status"]) == ("doctor", "finished")
    assert [check for check in result["checks"] if check["status"] != "ok"] == []
    assert all(set(check) == {"stage", "check", "status", "found", "remedy"} for check in result["checks"])
    assert {check["stage"] for check in result["checks"]} == {"tokenizer", "sft", "reward", "ppo"}
    in_ppo = {check["check"] for check in result["checks"] if check["stage"] == "ppo"}
    assert in_ppo == {
        "settings",
        "data",
        "chat template",
        "BOS",
        "vocabulary",
        "context length",
        "response mask",
        "sampler and scorer",
        "KL at the start",
        "KL penalty",
        "scores",
        "ratio at the start",
        "critic: padding",
        "reward model: padding",
        "reward model: last token",
        "reward model: tokenizer",
        "gradients",
        "weights move",
        "two steps",
        "export",
    }
    # The output has one line for each check, the stages, the summary and the place, and nothing else.
    lines = [line for line in done.stdout.splitlines() if line]
    assert len(lines) == len(result["checks"]) + 4 + 2
    assert lines[-2:] == [
        f"{len(result['checks'])} ok, 0 warning, 0 error",
        f"  result    {run_folder(tmp_path)}/result.json",
    ]
    assert not done.stderr
    left = {path.relative_to(run_folder(tmp_path)).parts[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {".hydra", "result.json"}


@pytest.mark.slow
def test_two_processes_speak_once(tmp_path: Path) -> None:
    done = doctor(tmp_path, *TINY, "stage=pipeline_dpo", "strategy=ddp", "trainer.devices=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines().count("dpo") == 1
    assert done.stdout.count("EOS in the labels") == 2
    assert not findings(result_of(run_folder(tmp_path)), "error")


# Overrides; the stage and name of the only error; and some words of its message.
Problem = tuple[list[str], str, str]
PROBLEMS: dict[str, Problem] = {
    "batch sizes that do not divide": (
        [*PPO, *GOLD, "ppo.module.rollout_batch_size=20"],
        "ppo: settings",
        "rollout_batch_size=20 is not divisible by minibatch_size=8",
    ),
    "a reward model without a head": (
        [*PPO, "reward.path={headless}"],
        "ppo: models",
        "is not a trained reward model: it has no weights for score.weight",
    ),
    "prompts longer than the context": (
        [*PPO, *GOLD, "model.config.max_position_embeddings=30"],
        "ppo: context length",
        "the longest prompt and 8 new tokens: 32 tokens; the models read 30",
    ),
}
MORE_PROBLEMS: dict[str, Problem] = {
    "groups that do not divide": (
        [*PPO, *GOLD, "algorithm=grpo", "ppo.module.credit.num_samples_per_prompt=3"],
        "ppo: models",
        "rollout_batch_size=16 is not divisible by num_samples_per_prompt=3",
    ),
    "an impossible value": (
        [*PPO, *GOLD, "ppo.module.kl_coef=-1"],
        "ppo: settings",
        "kl_coef=-1: must not be negative",
    ),
    "dropout": (
        [*PPO, *GOLD, "model.dropout=0.1"],
        "ppo: ratio at the start",
        "the log of the probability ratio is 0.",
    ),
    "a reward model that tells nothing": (
        [*PPO, "reward.path={flat}"],
        "ppo: reward model: length",
        "accuracy 0.500 on 256 held-out pairs; the length alone reaches 0.529",
    ),
    "a server that is not there": (
        [*PPO, "reward=http", "reward.function.url=http://127.0.0.1:9/score", "reward.function.retries=0"],
        "ppo: two steps",
        "url=http://127.0.0.1:9/score: asked 1 times: no answer",
    ),
    "a held-out file that is not there": (
        [*TINY, "stage=sft", "data.demonstrations_held_out=nowhere.jsonl"],
        "sft: data",
        "nowhere.jsonl",
    ),
    "a gold metric that fails": (
        [*TINY, "stage=sft", "data.gold=wrong_gold:gold"],
        "sft: held-out data",
        "gold needs the column answer",
    ),
    "a model that is not there": (
        [*TINY, "stage=sft", "model.pretrained=./nowhere"],
        "tokenizer: model",
        "model.pretrained=./nowhere: no such folder",
    ),
}


def is_the_only_error(result: dict[str, Any], problem: Problem) -> bool:
    """Whether the only error has the expected name and words, and a remedy."""
    _, name, words = problem
    errors = findings(result, "error")
    return list(errors) == [name] and words in errors[name]["found"] and bool(errors[name]["remedy"])


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_is_a_finding_and_exit_code_1(name: str, models: dict[str, Path], tmp_path: Path) -> None:
    done = doctor(tmp_path, *(override.format(**models) for override in PROBLEMS[name][0]))
    assert done.returncode == 1, done.stdout + done.stderr
    assert not done.stderr
    assert is_the_only_error(result_of(run_folder(tmp_path)), PROBLEMS[name])
    assert "1 error" in done.stdout
    assert not list(tmp_path.glob("outputs/**/model"))


@pytest.mark.parametrize("name", MORE_PROBLEMS)
def test_other_problems_are_findings_too(
    name: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrong_gold.py").write_text("def gold(prompts, responses, answer):\n    return [0.0] * len(prompts)\n")
    monkeypatch.syspath_prepend(tmp_path)
    overrides = [override.format(**models) for override in MORE_PROBLEMS[name][0]]
    assert is_the_only_error(examined(tmp_path / "run", *overrides), MORE_PROBLEMS[name])


def test_a_template_that_brings_no_end_is_fine(tmp_path: Path) -> None:
    contents = "{% for message in messages %}{{ message['content'] + ' ' }}{% endfor %}"
    result = examined(tmp_path, *TINY, "stage=sft", f'data.template="{contents}"')
    assert not findings(result, "error")
    assert "sft: EOS in the labels" in findings(result, "ok")


def test_a_template_that_prompts_with_a_thought_is_fine(tmp_path: Path) -> None:
    # As that of DeepSeek R1, which leaves thoughts out of the answers that it renders.
    (tmp_path / "chat.jinja").write_text(
        "{% for m in messages %}{% if m['role'] == 'assistant' %}"
        "{{ '<|assistant|>' + m['content'].split('</think>')[-1] + '<|end|>' }}"
        "{% else %}{{ '<|user|>' + m['content'] }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
    )
    template = f"data.template={tmp_path}/chat.jinja"
    for number, overrides in enumerate(([*TINY, "stage=sft"], [*PPO, *GOLD])):
        result = examined(tmp_path / str(number), *overrides, template)
        assert not findings(result, "error")
        assert {"tokenizer: chat template", "tokenizer: stop tokens"} <= findings(result, "ok").keys()


def test_what_starts_from_a_stage_with_an_error_is_not_examined(tmp_path: Path) -> None:
    result = examined(tmp_path, *TINY, "sft.data.max_length=1")
    assert list(findings(result, "error")) == ["sft: data"]
    assert findings(result, "warning").keys() == {"reward: stage", "ppo: stage"}


def test_what_is_left_out_is_a_warning_and_all_parts_of_a_sum_are_examined(
    models: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Hydra leaves this level.
    caplog.set_level("ERROR")
    prompts = [{"prompt": f"My kettle number {i} leaks. " * (1 + i % 2)} for i in range(60)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    result = examined(
        tmp_path / "run",
        *PPO,
        "data=files",
        f"data.path={tmp_path}/prompts.jsonl",
        "data.max_prompt_length=20",
        "data.val_fraction=0.3",
        "reward=weighted",
        f"reward.parts.model.path={models['reward']}",
        "reward.parts.model.template=plain",
        "reward.parts.function.function=lightning_rlhf.demo.gold:gold",
    )
    warnings, fine = findings(result, "warning"), findings(result, "ok")
    assert not findings(result, "error")
    assert "left out" in warnings["ppo: data"]["found"]
    assert "it reads texts" in fine["ppo: reward model: tokenizer"]["found"]
    assert "ppo: reward model model: last token" in fine
    # These data contain no pairs, so the reward model cannot be judged by them.
    assert "ppo: reward model: length" not in warnings | fine


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("ppo.module.kl_coeff=1", "did you mean 'ppo.module.kl_coef'?"),
        ("stage=sft ppo.module.kl_coef=1", "is set, but"),
    ],
)
def test_a_setting_that_is_not_known_is_refused_as_by_train(override: str, words: str, tmp_path: Path) -> None:
    done = doctor(tmp_path, "model=tiny", *override.split())
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert not list(tmp_path.glob("outputs/**/result.json"))


def test_weights_in_16_bits_that_stand_still_are_told(tmp_path: Path) -> None:
    result = examined(tmp_path, *TINY, "stage=sft", "experiment=none", "trainer.precision=bf16-true")
    warned = findings(result, "warning")["sft: weights move"]
    assert warned["found"].endswith("of the trained weights moved in two steps")
    assert "trainer.precision=bf16-mixed or 32-true" in warned["remedy"]
