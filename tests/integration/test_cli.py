"""The command line as a user runs it, in real processes in an empty folder."""

import csv
import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from support import TINY, command, keep, result_of, run_folder, started
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run of the whole pipeline, and its output."""
    folder = tmp_path_factory.mktemp("pipeline")
    done = command(folder, *TINY)
    assert done.returncode == 0, done.stderr
    return run_folder(folder), done.stdout + done.stderr


def test_a_run_leaves_everything_that_the_design_promises(pipeline: tuple[Path, str]) -> None:
    folder, _ = pipeline
    for name in ("result.json", "report.html", ".hydra/config.yaml", ".hydra/overrides.yaml"):
        assert (folder / name).is_file(), name
    for stage in ("sft", "reward", "ppo"):
        for name in ("result.json", "report.html", "metrics.csv", "model/model.safetensors", "checkpoints/last.ckpt"):
            assert (folder / stage / name).is_file(), (stage, name)
    assert not list(folder.rglob("*.partial"))


def test_the_result_names_what_scripts_rely_on(pipeline: tuple[Path, str]) -> None:
    result = result_of(pipeline[0])
    assert result["status"] == "finished"
    assert set(result["stages"]) == {"sft", "reward", "ppo"}
    metrics = {stage: set(record["metrics"]) for stage, record in result["stages"].items()}
    assert metrics["sft"] >= {"loss", "perplexity", "gold_rate", "response_length", "eos_rate"}
    assert metrics["reward"] >= {"loss", "reward_accuracy", "longer_wins_accuracy", "shorter_wins_accuracy"}
    assert metrics["ppo"] >= {"score", "gold_rate", "gold_win_rate", "kl", "response_length", "eos_rate"}
    assert {"python", "torch", "lightning", "transformers"} <= set(result["versions"])


def test_the_exports_are_plain_hugging_face_folders(pipeline: tuple[Path, str]) -> None:
    folder, _ = pipeline
    tokenizer = AutoTokenizer.from_pretrained(folder / "ppo" / "model")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, return_tensors="pt")
    answer = AutoModelForCausalLM.from_pretrained(folder / "ppo" / "model").generate(**ids, max_new_tokens=4)
    assert answer.shape[1] > ids["input_ids"].shape[1]
    reward = AutoModelForSequenceClassification.from_pretrained(folder / "reward" / "model")
    assert reward(**ids).logits.shape == (1, 1)


def test_what_a_run_prints_is_short_and_names_the_run_card(pipeline: tuple[Path, str]) -> None:
    folder, printed = pipeline
    assert f"{folder}/report.html" in printed
    assert "Warning" not in printed
    assert len(printed.splitlines()) < 60


def test_the_log_has_what_was_printed_with_time_stamps(pipeline: tuple[Path, str]) -> None:
    folder, printed = pipeline
    lines = (folder / "train.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    logged = [line[20:].strip() for line in lines]
    assert not [line for line in printed.splitlines() if line.strip() and line.strip() not in logged]


def test_each_logged_step_has_its_learning_rate_gradient_norm_and_speed(pipeline: tuple[Path, str]) -> None:
    for stage in ("sft", "reward"):
        with (pipeline[0] / stage / "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["train/loss"]]
        assert len(rows) == 2
        for name in ("train/lr", "train/grad_norm", "perf/tokens_per_second"):
            assert all(float(row[name]) > 0 for row in rows), name
    with (pipeline[0] / "ppo" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/policy_loss"]]
    # The learning rates of conf/experiment/demo.yaml
    assert [float(row["train/lr_actor"]) for row in rows] == pytest.approx([1.5e-4] * 2)
    assert [float(row["train/lr_critic"]) for row in rows] == pytest.approx([5e-4] * 2)
    assert [row["train/lr"] for row in rows] == [row["train/lr_actor"] for row in rows]


def test_samples_before_and_after_training_are_kept(pipeline: tuple[Path, str]) -> None:
    rows = [json.loads(line) for line in (pipeline[0] / "ppo" / "samples.jsonl").read_text().splitlines()]
    assert {(row["phase"], row["iteration"]) for row in rows} >= {("evaluation", 0), ("evaluation", 2), ("rollout", 1)}
    assert set(rows[0]) == {
        "iteration",
        "phase",
        "row",
        "prompt",
        "messages",
        "response",
        "length",
        "finish_reason",
        "weights_version",
        "gold",
        "score",
        "kl",
    }


def test_a_run_records_its_rows_models_and_machine_and_the_card_shows_them(pipeline: tuple[Path, str]) -> None:
    folder, _ = pipeline
    stages = result_of(folder)["stages"]
    # The embedded data: 400 held-out pairs, 1,000 prompts, and 256 held-out prompts.
    assert stages["reward"]["rows"]["held out"] == 400
    assert stages["ppo"]["rows"] == {"train": 1000, "held out": 256, "answered": 256}
    assert stages["ppo"]["hardware"] == {**stages["sft"]["hardware"], "processes": 1, "machines": 1}
    sizes = stages["ppo"]["parameters"]
    net = AutoModelForCausalLM.from_pretrained(folder / "ppo" / "model").num_parameters()
    assert sizes["actor"] == {"total": net, "trained": net}
    assert sizes["reference"] == {"total": net, "trained": 0}
    card = (folder / "report.html").read_text(encoding="utf-8")
    assert "1,000" in card.split('<section id="setup">')[1]
    assert f"actor {net:,}" in card


def test_every_iteration_logs_both_phases(pipeline: tuple[Path, str]) -> None:
    with (pipeline[0] / "ppo" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("rollout/score_mean", "rollout/kl", "train/policy_loss", "train/value_loss", "perf/tokens_per_second"):
        assert len([row for row in rows if row[name]]) == 2, name
    before = next(row for row in rows if row["epoch"] == "-1")
    assert float(before["val/kl"]) == pytest.approx(0, abs=1e-5)


def test_the_card_of_a_model_tells_of_all_stages_behind_it(pipeline: tuple[Path, str]) -> None:
    folder = pipeline[0] / "ppo" / "model"
    manifest = json.loads((folder / "lightning_rlhf.json").read_text())
    assert manifest["base_model"] == "../../sft/model"
    assert [record["stage"] for record in manifest["training"]] == ["sft", "reward", "ppo"]
    reward, ppo = manifest["training"][1:]
    metrics = result_of(pipeline[0])["stages"]["reward"]["metrics"]
    assert {metric["name"]: metric["value"] for metric in reward["metrics"]} == metrics
    assert ppo["data"][0]["rows"] == result_of(pipeline[0] / "ppo")["rows"]["train"] == 1000
    assert (ppo["settings"]["rollout_batch_size"], ppo["settings"]["optim"]["optimizer"]) == (16, "AdamW")
    # The score before training is that of the answers that the held-out prompts got first.
    before = next(metric["before"] for metric in ppo["metrics"] if metric["name"] == "score")
    with (pipeline[0] / "ppo" / "metrics.csv").open() as file:
        first = next(row for row in csv.DictReader(file) if row["epoch"] == "-1")
    assert float(before.replace("\N{MINUS SIGN}", "-")) == pytest.approx(float(first["val/score"]), rel=0.01)
    card = ModelCard.load(folder / "README.md")
    assert card.data.to_dict()["pipeline_tag"] == "text-generation"
    assert "“Longer wins”" in card.text
    settings = json.loads((folder / "generation_config.json").read_text())
    assert (settings["max_new_tokens"], settings["top_k"], settings["pad_token_id"]) == (8, 0, 0)
    assert "max_new_tokens" not in json.loads((pipeline[0] / "sft" / "model" / "generation_config.json").read_text())


@pytest.mark.slow
def test_a_pipeline_goes_on_after_ctrl_c_in_ppo(tmp_path: Path) -> None:
    endless = [*TINY, "ppo.trainer.max_epochs=500", "ppo.trainer.check_val_every_n_epoch=500"]
    stopped = _interrupt(tmp_path, endless, lambda: list(tmp_path.glob("outputs/*/*/ppo/checkpoints/last.ckpt")))
    assert stopped.returncode == 130
    assert "Traceback" not in stopped.stderr
    folder = run_folder(tmp_path)
    assert f"resume={folder}" in stopped.stderr
    assert result_of(folder)["status"] == result_of(folder / "ppo")["status"] == "interrupted"
    assert not (folder / "ppo" / "model").exists()
    done = command(tmp_path, f"resume={folder}", "+ppo.trainer.max_time=00:00:00:05")
    assert done.returncode == 0, done.stderr
    assert "ppo.trainer.max_time: none → 00:00:00:05" in done.stdout
    assert run_folder(tmp_path) == folder
    after = result_of(folder)
    assert after["stages"]["sft"]["model_dir"] == str(folder / "sft" / "model")
    # The time limit is reached before the first evaluation, so the last weights are evaluated then.
    assert after["stages"]["ppo"]["status"] == "finished"
    assert after["stages"]["ppo"]["metrics"]["score"] is not None


def test_a_finished_pipeline_is_not_trained_again_and_takes_no_other_settings(
    pipeline: tuple[Path, str], tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in pipeline[0].rglob("*")}
    done = command(tmp_path, f"resume={pipeline[0]}")
    assert done.returncode == 0, done.stderr
    assert "finished already" in done.stderr
    assert str(pipeline[0] / "ppo" / "model") in done.stdout
    refused = command(tmp_path, "sft.module.lr=0.5", f"resume={pipeline[0]}")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: sft.module.lr=0.5 was ")
    assert "where sft has finished" in refused.stderr
    assert {path: path.stat().st_mtime_ns for path in pipeline[0].rglob("*")} == before
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ctrl_c_in_the_update_phase_leaves_no_model(tmp_path: Path) -> None:
    overrides = [*keep(TINY, "sft"), "sft.trainer.max_epochs=500"]
    overrides.remove("+sft.trainer.limit_train_batches=2")
    stopped = _interrupt(tmp_path, overrides, lambda: list(tmp_path.glob("outputs/*/*/result.json")))
    assert stopped.returncode == 130
    assert stopped.stderr.strip().splitlines()[-1].startswith("interrupted; resume with: ")
    assert (run_folder(tmp_path) / "checkpoints" / "last.ckpt").exists()
    assert "Traceback" not in stopped.stderr
    assert result_of(run_folder(tmp_path))["status"] == "interrupted"
    assert not (run_folder(tmp_path) / "model").exists()


def _interrupt(folder: Path, overrides: list[str], ready: object) -> subprocess.CompletedProcess[str]:
    """Starts a run, sends it Ctrl-C when it is ready, and waits for its end."""
    process = started(folder, "train", *overrides)
    deadline = time.monotonic() + 120
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_a_sweep_writes_a_table_of_its_metrics(tmp_path: Path) -> None:
    diverging = ["sft.data.prompts_held_out=null", "callbacks.health.skip_steps=0"]
    done = command(tmp_path, "-m", *keep(TINY, "sft"), "sft.module.lr=1e-3,1e30,1e-4", *diverging)
    # The error of the run that diverged, when all runs have ended.
    assert done.returncode == 2, done.stderr
    assert "not finite: train/grad_norm" in done.stderr
    table = next(tmp_path.glob("outputs/sweeps/*/sweep.csv"))
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["sft.module.lr"] for row in rows] == ["0.001", "1e+30", "0.0001"]
    assert [row["status"] for row in rows] == ["finished", "diverged", "finished"]
    assert 0 < float(rows[0]["loss"]) != float(rows[2]["loss"]) > 0
    assert str(table.relative_to(tmp_path)) in done.stdout


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path: Path, pipeline: tuple[Path, str]) -> None:
    done = command(tmp_path, *TINY, "strategy=ddp", "trainer.devices=2")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stdout + done.stderr
    one, two = result_of(pipeline[0]), result_of(run_folder(tmp_path))
    for stage, record in one["stages"].items():
        for name, value in record["metrics"].items():
            assert two["stages"][stage]["metrics"][name] == pytest.approx(value, rel=1e-3, abs=1e-4), (stage, name)


def test_wandb_offline_and_tensorboard_write_what_csv_writes(tmp_path: Path) -> None:
    done = command(tmp_path, *keep(TINY, "sft"), "logger=many", WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    assert "wandb:" not in done.stdout + done.stderr
    folder = run_folder(tmp_path)
    name = f"sft-{folder.name}"
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with (folder / "metrics.csv").open() as file:
        names = {name for name in csv.DictReader(file).fieldnames or () if "/" in name}
    events = EventAccumulator(str(folder / "tensorboard" / name)).Reload()
    assert names <= set(events.Tags()["scalars"])
    # W&B writes uncompressed protocol buffers, so names appear in the file literally.
    recorded = next(folder.glob("wandb/offline-run-*/*.wandb")).read_bytes()
    assert name.encode() in recorded
    assert not [name for name in [*names, "samples/evaluation"] if name.encode() not in recorded]
    table = json.loads(next(folder.glob("wandb/offline-run-*/files/media/table/samples/*.table.json")).read_text())
    assert {"prompt", "response", "gold"} <= set(table["columns"])


def test_wandb_gets_a_run_for_each_stage_of_a_pipeline(tmp_path: Path) -> None:
    done = command(tmp_path, *TINY, "logger=wandb", "logger.wandb.mode=offline")
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path)
    for stage, name in {"sft": "val/perplexity", "reward": "val/reward_accuracy", "ppo": "rollout/kl"}.items():
        recorded = next(folder.glob(f"{stage}/wandb/offline-run-*/*.wandb")).read_bytes()
        assert name.encode() in recorded
        assert f"{stage}-{folder.name}".encode() in recorded


def test_wandb_without_an_account_says_what_to_do(tmp_path: Path) -> None:
    overrides = [*keep(TINY, "sft"), "logger=wandb", "logger.wandb.mode=online"]
    done = command(tmp_path, *overrides, WANDB_API_KEY="", HOME=str(tmp_path), NETRC=str(tmp_path / "netrc"))
    assert done.returncode == 2, done.stderr
    assert "error: Weights & Biases: " in done.stderr
    assert "logger.wandb.mode=offline" in done.stderr
    assert "Traceback" not in done.stderr


SFT, FILES = ["stage=sft"], ["stage=sft", "data=files"]
PPO = ["stage=ppo", "reward=function", "reward.function=lightning_rlhf.demo.gold:gold"]
MISTAKES = {
    "a misspelt key": (["ppo.module.kl_coeff=1"], "did you mean 'ppo.module.kl_coef'?"),
    "a key of a stage that does not run": (
        [*SFT, "ppo.module.kl_coef=1"],
        "ppo.module.kl_coef is set, but stage=ppo does not run here",
    ),
    "an architecture beside one that is loaded": (
        [*SFT, "experiment=none", "model=gpt2/small", "model.config.n_layer=6"],
        "model.config.n_layer is set, but model.pretrained=openai-community/gpt2 has its own architecture and ",
    ),
    "an unknown option": (["model=nope"], "there is no model=nope; there are bloom/176b"),
    "a wrong type": ([*SFT, "sft.module.lr=fast"], "sft.module.lr=fast: expected a number"),
    "impossible values, all at once": (
        [*PPO, "ppo.module.credit.gamma=2", "ppo.module.credit.gae_lambda=-1"],
        "gamma=2: must lie in [0, 1]\ngae_lambda=-1: must lie in [0, 1]",
    ),
    "a batch that does not divide": (
        [*SFT, "sft.data.minibatch_size=33", "sft.trainer.accumulate_grad_batches=2"],
        "minibatch_size=33 is not divisible by 2",
    ),
    "a rollout that does not divide": (
        [*PPO, "ppo.module.rollout_batch_size=100"],
        "rollout_batch_size=100 is not divisible by minibatch_size=32",
    ),
    "a wrong path": ([*FILES, "data.path=nowhere.jsonl"], "nowhere.jsonl"),
    "no path": (FILES, "data.path is not set"),
    "an empty file": ([*FILES, "data.path=empty.jsonl"], "empty.jsonl"),
    "a file of one row": ([*FILES, "data.path=one.jsonl"], "1 "),
    "fewer rows than processes": (
        [*FILES, "data.path=few.jsonl", "strategy=ddp", "trainer.devices=16"],
        "minibatch_size=16, but there are only 11 rows to train on, fewer than the 16 = processes x ",
    ),
    "quotes that are missing": ([*FILES, "data.path=a=b.jsonl"], """Write it as 'data.path="a=b.jsonl"'"""),
    "several mistakes, all at once": (
        [*FILES, "sft.modul.lr=1", "+data.val_fractoin=1", "+trainer.max_epochs=2", "model.pretrained=./none"],
        "there is no setting 'sft.modul.lr'; did you mean 'sft.module.lr'?; --cfg job prints them all\n"
        "data.val_fractoin: there is no such setting; did you mean data.val_fraction?\n"
        "trainer.max_epochs=2 has no effect, because each stage has its own: set sft.trainer.max_epochs=2\n"
        "data.path is not set: give it as data.path=VALUE\n"
        "model.pretrained=./none: no such folder",
    ),
    "mistakes in two stages": (
        ["data=files", "data.path=few.jsonl", "sft.module.lr=fast", "ppo.module.lr=slow"],
        "sft.module.lr=fast: expected a number\nppo.module.lr=slow: expected a number",
    ),
    "a wrong field": ([*FILES, "data.path=field.jsonl"], "field.jsonl:2: field 'completion'"),
    "a precision that there is not": ([*SFT, "trainer.precision=7"], "trainer.precision=7: expected one of"),
    "no reward model": (["stage=ppo"], "reward.path is not set"),
    "a folder that is no model": ([*SFT, "model.pretrained=."], "model.pretrained=."),
    "a sampling that PPO cannot score": ([*PPO, "rollout.sampling.top_p=0.9"], "top_p=0.9"),
    "another model with the demo's settings": (["model=gpt2/small"], "experiment=none"),
    "nothing to resume": ([*SFT, "resume=nowhere"], "resume=nowhere: no such run folder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message_and_exit_code_2(mistake: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"Why {i}?", "completion": "Because."} for i in range(12)]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "one.jsonl").write_text(lines[0] + "\n")
    (tmp_path / "few.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "field.jsonl").write_text("\n".join([lines[0], '{"prompt": "Why?", "completion": 3}', *lines]) + "\n")
    overrides, message = MISTAKES[mistake]
    done = (
        command(tmp_path, "model=tiny", *overrides)
        if "model=gpt2/small" not in overrides
        else command(tmp_path, *overrides)
    )
    assert done.returncode == 2, done.stderr
    # What was read may be told before it.
    said = done.stderr.partition("rows read\n")[2] or done.stderr.partition("row read\n")[2] or done.stderr
    assert said.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    # Nothing was done, so no run folder is left.
    assert not [path for path in tmp_path.glob("outputs/**/*") if path.is_file() or path.name == ".hydra"]


def test_each_run_of_a_sweep_says_that_it_skips_a_wrong_row(tmp_path: Path) -> None:
    rows = [{"prompt": f"Why {i}?", "completion": "Because."} for i in range(40)]
    rows[3] = {"prompt": "Why?", "completion": ""}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = command(
        tmp_path,
        "-m",
        *keep(TINY, "sft"),
        "data=files",
        f"data.path={tmp_path / 'rows.jsonl'}",
        "data.on_error=skip",
        "data.val_fraction=0.2",
        "sft.data.minibatch_size=8",
        "seed=1,2",
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert said.count("skipped 1 wrong row") == said.count("rows.jsonl:4") == 2
    # Hydra's own messages do not appear.
    assert "HYDRA" not in said
    assert "#1" not in said


def test_a_beginner_with_few_rows_gets_one_warning_and_a_trained_model(tmp_path: Path) -> None:
    rows = [{"prompt": f"Why {i}?", "chosen": "Because.", "rejected": "No."} for i in range(20)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    # The defaults of all stages, but for the sizes of a rollout, which take time.
    overrides = ["model=tiny", "experiment=none", "data=files", "data.path=pairs.jsonl", "data.val_fraction=0.01"]
    ppo = ["ppo.trainer.max_epochs=3", "ppo.trainer.check_val_every_n_epoch=2", "ppo.module.rollout_batch_size=8"]
    done = command(tmp_path, *overrides, *ppo, "rollout.sampling.max_new_tokens=8")
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    warning = said[said.index("adapted to what there is:") :].splitlines()[1:5]
    assert {line.strip() for line in warning} == {
        "ppo: minibatch_size=32: a rollout, and so a minibatch, has 8 responses",
        "ppo: check_val_every_n_epoch=2 does not divide max_epochs=3, so the last iteration is evaluated too",
        "sft, reward, ppo: val_fraction=0.01 would hold out none of 20 prompts, so one is held out",
        "sft, reward: minibatch_size=64: there are only 19 rows to train on, so a minibatch has 19",
    }
    assert said.count("minibatch_size=64") == said.count("val_fraction=0.01") == 1
    result = result_of(run_folder(tmp_path))
    assert result["status"] == "finished"
    assert {name: part["minibatch_size"] for name, part in result["stages"].items()} == {
        "sft": 19,
        "reward": 19,
        "ppo": 8,
    }
    assert result["stages"]["ppo"]["metrics"]["score"] is not None
    evaluated = {json.loads(line)["iteration"] for line in (run_folder(tmp_path) / "ppo" / "samples.jsonl").open()}
    assert {0, 2, 3} <= evaluated


def evaluated_rows(folder: Path, *limits: str) -> list[dict[str, str]]:
    """The evaluations of a run of SFT that a limit ends within its first epoch."""
    overrides = [o for o in keep(TINY, "sft") if "limit" not in o]
    done = command(folder, *overrides, *limits, "sft.trainer.check_val_every_n_epoch=10")
    assert done.returncode == 0, done.stderr
    assert result_of(run_folder(folder))["status"] == "finished"
    with (run_folder(folder) / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["val/loss"]]


def test_max_steps_ends_with_an_evaluation(tmp_path: Path) -> None:
    # Before no step, and after the third only.
    assert len(evaluated_rows(tmp_path, "+sft.trainer.max_steps=3")) == 1


def test_max_time_ends_with_an_evaluation(tmp_path: Path) -> None:
    # The time is over when the first step has been taken.
    assert len(evaluated_rows(tmp_path, "+sft.trainer.max_time={microseconds: 1}")) == 1


def test_a_time_that_ends_before_min_steps_ends_with_one_evaluation(tmp_path: Path) -> None:
    # Without min_epochs=0, Lightning would finish the first epoch.
    limits = ["+sft.trainer.max_time={microseconds: 1}", "+sft.trainer.min_steps=3", "+sft.trainer.min_epochs=0"]
    (row,) = evaluated_rows(tmp_path, *limits)
    assert row["step"] == "2"


def test_jobs_of_a_sweep_ignore_settings_of_other_stages_and_a_failed_one_says_so(tmp_path: Path) -> None:
    done = command(tmp_path, "-m", *keep(TINY, "sft"), "ppo.module.lr=1,2", "sft.module.lr=1e-3,fast")
    assert done.returncode == 2
    assert done.stderr.count("note: stage=sft ignores ppo.module.lr\n") == done.stderr.count("note: ") == 1
    folder = next(tmp_path.glob("outputs/sweeps/*"))
    assert result_of(folder / "0")["status"] == "finished"
    failed = result_of(folder / "1")
    assert (failed["status"], failed["error"]) == ("failed", "sft.module.lr=fast: expected a number")
    # Two jobs, and not four.
    assert not (folder / "2").exists()


def test_jobs_of_a_sweep_that_are_the_same_run_once(tmp_path: Path) -> None:
    # Two stages and two rates are four jobs, but the rate of PPO is no setting of SFT. All fail before torch is needed.
    done = command(tmp_path, "-m", "data=files", "data.path=missing.jsonl", "stage=sft,ppo", "ppo.module.lr=1,2")
    assert done.returncode == 2
    assert "note: the sweep has 3 runs and not 4" in done.stderr
    with next(tmp_path.glob("outputs/sweeps/*/sweep.csv")).open() as file:
        rows = [(row["run"], row["stage"], row["ppo.module.lr"], row["status"]) for row in csv.DictReader(file)]
    assert rows == [("0", "sft", "", "failed"), ("1", "ppo", "1", "failed"), ("2", "ppo", "2", "failed")]


def test_a_failing_reward_function_in_the_current_folder_is_one_message_with_the_users_lines(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def score(prompts, responses):\n    return [1 / 0 for _ in responses]\n")
    overrides = [o for o in keep(TINY, "ppo") if "check_val" not in o]
    done = command(tmp_path, *overrides, "reward=function", "reward.function=mine:score")
    assert done.returncode == 2, done.stderr
    message = done.stderr[done.stderr.index("error: ") :]
    assert message.startswith("error: mine:score failed for response 1 of ")
    assert "ZeroDivisionError: division by zero\n  mine.py:2 in score\n    return [1 / 0 for _ in responses]" in message
    assert "Traceback" not in done.stderr
    assert result_of(run_folder(tmp_path))["status"] == "failed"


@pytest.mark.slow
def test_one_file_of_transcripts_serves_all_stages(tmp_path: Path) -> None:
    def transcript(i: int, answer: str) -> str:
        return f"\n\nHuman: Is {i} a number?\n\nAssistant: It is.\n\nHuman: Really?\n\nAssistant: {answer}"

    rows = [{"chosen": transcript(i, "Yes, it is."), "rejected": transcript(i, "Go away.")} for i in range(120)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = command(tmp_path, *TINY, "data=files", "data.path=pairs.jsonl", "data.val_fraction=0.1")
    assert done.returncode == 0, done.stderr
    stages = result_of(run_folder(tmp_path))["stages"]
    assert stages["reward"]["metrics"]["reward_accuracy"] > 0.5
    assert "gold_rate" not in stages["ppo"]["metrics"]


def test_regression_learns_scores(tmp_path: Path) -> None:
    rows = [{"user_input": f"Say {i}", "completion": "yes " * (i % 5), "score": i % 5} for i in range(1, 200) if i % 5]
    (tmp_path / "scores.json").write_text(json.dumps(rows))
    overrides = [o for o in keep(TINY, "reward") if "limit" not in o and "max_epochs" not in o]
    done = command(
        tmp_path,
        *overrides,
        "data=files",
        "data.path=scores.json",
        "data.val_fraction=0.1",
        "reward_model.data.objective=regression",
        "reward_model.data.minibatch_size=8",
        "reward_model.trainer.max_epochs=8",
        "reward_model.module.lr=3e-3",
        "~reward_model.callbacks.normalize",
    )
    assert done.returncode == 0, done.stderr
    # Scores are 1 to 4, and a constant 2.5 would have an error of 1.
    assert result_of(run_folder(tmp_path))["metrics"]["absolute_error"] < 0.5
