"""Callbacks on their own; tests of runs cover what they do in a run."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import not_json, result_of, tiny_source

from lightning_rlhf.assembly.summary import print_summary
from lightning_rlhf.callbacks import AdaptiveKL, RunRecord, SampleTable, Throughput
from lightning_rlhf.callbacks.run_facts import commit_of
from lightning_rlhf.callbacks.throughput import peak_of
from lightning_rlhf.checks.start import at_first_batch
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.modules.stage_module import StageModule
from lightning_rlhf.saving import write_json


def rollout(kl: float, count: int) -> SimpleNamespace:
    return SimpleNamespace(metrics={"kl": kl}, scores=torch.zeros(count))


@pytest.mark.parametrize(
    ("kl", "expected"),
    # error = clip(kl / 6 - 1, ±0.2), weight 0.15 · (1 + error · 512 / 10000), as in Ziegler et al. (2019)
    [
        (6.0, 0.15),
        (12.0, 0.15 * (1 + 0.2 * 0.0512)),
        (0.0, 0.15 * (1 - 0.2 * 0.0512)),
        (6.6, 0.15 * (1 + 0.1 * 0.0512)),
    ],
)
def test_the_kl_weight_moves_towards_the_target(kl: float, expected: float) -> None:
    module = SimpleNamespace(kl_coef=0.15)
    AdaptiveKL(target=6, horizon=10_000).on_rollout_end(None, module, rollout(kl, 512))  # type: ignore[arg-type]
    assert module.kl_coef == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("settings", [{"target": 0.0}, {"horizon": -1.0}])
def test_an_impossible_aim_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match="must be positive"):
        AdaptiveKL(**settings)


def test_a_sample_table_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="at least 1"):
        SampleTable(every=0)


def test_lines_of_samples_are_what_strict_parsers_read(tmp_path: Path) -> None:
    table = SampleTable()
    table.file = tmp_path / "samples.jsonl"
    answers = [{"row": 0, "response": "é", "score": float("nan"), "gold": float("-inf")}]
    table.on_evaluation_end(SimpleNamespace(loggers=[]), None, 3, answers)  # type: ignore[arg-type]
    line = json.loads(table.file.read_text(encoding="utf-8"), parse_constant=not_json)
    assert line == {"iteration": 3, "phase": "evaluation", "row": 0, "response": "é", "score": None, "gold": None}


def test_a_metric_that_is_not_finite_is_null_in_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = RunRecord("sft", seed=1)
    # The perplexity of 95 nats, in fp32.
    metrics = {"val/loss": torch.tensor(95.0), "val/perplexity": torch.tensor(95.0).exp()}
    fitted: Any = SimpleNamespace(
        is_global_zero=True,
        default_root_dir=tmp_path,
        ckpt_path=None,
        callbacks=[],
        sanity_checking=False,
        callback_metrics=metrics,
        global_step=1,
    )
    record.on_validation_end(fitted, None)  # type: ignore[arg-type]
    record.on_train_epoch_end(fitted, SimpleNamespace(device=torch.device("cpu")))  # type: ignore[arg-type]
    assert result_of(tmp_path)["metrics"] == {"loss": 95.0, "perplexity": None}
    summarized: Any = result_of(tmp_path)
    print_summary(summarized, tmp_path)
    assert "loss 95.000  perplexity not finite" in capsys.readouterr().out


def test_a_json_file_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "result.json", {"status": "running"})
    before = (tmp_path / "result.json").read_text()
    monkeypatch.setattr("os.rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "result.json", {"status": "finished"})
    assert (tmp_path / "result.json").read_text() == before


def test_an_evaluation_slows_no_rate_and_is_no_part_of_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, logged = [0.0], dict[str, float]()
    monkeypatch.setattr("lightning_rlhf.callbacks.throughput.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(Throughput, "_flops", lambda *_: 0)
    trainer: Any = SimpleNamespace(world_size=1)
    module: Any = SimpleNamespace(log_dict=lambda values, **_: logged.update(values), log=lambda *_, **__: None)
    module.device = torch.device("cpu")
    throughput = Throughput()
    throughput.on_train_epoch_start(trainer, module)
    throughput.on_train_batch_start(trainer, module, SimpleNamespace(attention_mask=torch.ones(2, 5)), 0)
    for time, event in ((4, throughput.on_validation_start), (34, throughput.on_validation_end)):
        clock[0] = time
        event(trainer, module)
    clock[0] = 35
    throughput.on_train_epoch_end(trainer, module)
    # 2 samples and 10 tokens in 4 seconds before the evaluation and 1 second after it
    assert logged["perf/update_seconds"] == 5
    assert logged["perf/evaluation_seconds"] == 30
    assert (logged["perf/samples_per_second"], logged["perf/tokens_per_second"]) == (2 / 5, 10 / 5)
    assert throughput.state_dict()["seconds"] == 5


class Own(StageModule):
    """A module of a user's own: a model that learns, and one that judges it and is frozen."""

    def __init__(self) -> None:
        super().__init__()
        source = tiny_source()
        self.net, self.judge = load_causal_lm(source), load_causal_lm(source).requires_grad_(False)

    def start_distance(self, batch: object) -> float | None:
        return 0.5


def test_a_module_of_a_users_own_is_measured_and_checked_like_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    module, logged = Own(), dict[str, float]()
    assert module.learners() == [module.net]
    (finding,) = at_first_batch(SimpleNamespace(precision="32-true"), module, batch=None)  # type: ignore[arg-type]
    assert (finding.check, finding.status) == ("KL at the start", "error")

    monkeypatch.setattr("lightning_rlhf.callbacks.throughput.time.perf_counter", lambda: 0.0)
    trainer: Any = SimpleNamespace(world_size=2, strategy=None)
    throughput = Throughput()
    throughput.on_train_epoch_start(trainer, module)
    monkeypatch.setattr("lightning_rlhf.callbacks.throughput.time.perf_counter", lambda: 2.0)
    monkeypatch.setattr(module, "log_dict", lambda values, **_: logged.update(values))
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    mask = torch.ones(2, 5, dtype=torch.bool)
    throughput.on_train_batch_start(trainer, module, SimpleNamespace(attention_mask=mask), 0)
    # Counting must not wait for the device, so the counts stay there until somebody reads them.
    assert isinstance(throughput.trained_tokens, torch.Tensor)
    throughput.on_train_epoch_end(trainer, module)
    # 2 x 5 tokens on each of 2 ranks, 6 operations for each parameter that is trained, none for the frozen model
    parameters = sum(weight.numel() for weight in module.net.parameters())
    assert logged["perf/tflops"] == pytest.approx(6 * parameters * 20 / 2 / 1e12)
    assert throughput.state_dict() == {
        "rollout_seconds": 0.0, "samples": 4, "tokens": 20, "trained_tokens": 20, "rollout_flops": 0, "seconds": 2.0
    }  # fmt: skip


@pytest.mark.parametrize(("rescored", "actor"), [(1.0, 2), (0.25, 1.25)])
def test_the_actor_counts_as_a_scorer_for_what_it_scores(rescored: float, actor: float) -> None:
    nets = {"actor": torch.nn.Linear(10, 10, bias=False), "reference": torch.nn.Linear(10, 20, bias=False)}
    roles = SimpleNamespace(generator=lambda: nets["actor"], nets=lambda: nets)
    sequences = SimpleNamespace(attention_mask=torch.ones(4, 5))
    done = SimpleNamespace(
        seconds=1.0,
        prompts=4 * ["?"],
        experience=SimpleNamespace(sequences=sequences),
        metrics={"rescored_rate": rescored},
    )
    throughput, trainer = Throughput(), SimpleNamespace(strategy=None)
    throughput.on_rollout_end(trainer, SimpleNamespace(roles=roles), done)  # type: ignore[arg-type]
    # 20 tokens pass through the actor when they are sampled and when it scores them, and through the reference once.
    assert throughput.rollout_flops == 2 * 20 * (actor * 100 + 200)


def test_the_commits_of_the_current_folder_and_of_the_package_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run(["git", *author, *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    monkeypatch.chdir(tmp_path)
    assert commit_of(tmp_path) is None
    git("init")
    (tmp_path / "reward.py").write_text("1")
    git("add", "reward.py")
    git("commit", "-m", "one")
    commit = git("rev-parse", "HEAD").strip()
    assert commit_of(tmp_path) == (tmp_path.name, commit)
    (tmp_path / "reward.py").write_text("2")
    assert commit_of(tmp_path) == (tmp_path.name, f"{commit} with uncommitted changes")
    # An environment within a repository is no part of it.
    (tmp_path / "site-packages").mkdir()
    assert commit_of(tmp_path / "site-packages") is None
    monkeypatch.setenv("PATH", "")
    assert commit_of(tmp_path) is None


def test_the_peak_of_a_gpu_begins_with_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.device] = []
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", seen.append)
    for device in (torch.device("cuda", 1), torch.device("cpu")):
        Throughput().on_fit_start(None, SimpleNamespace(device=device))  # type: ignore[arg-type]
    assert seen == [torch.device("cuda", 1)]
    assert [peak_of(torch.device(name)) for name in ("cuda", "cpu")] == ["tensors", "whole process"]
