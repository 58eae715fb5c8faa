"""Callbacks on their own; what they do in a run is tested with runs."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import not_json, result_of

from lightning_rlhf.assembly.summary import print_summary
from lightning_rlhf.callbacks import AdaptiveKL, RunRecord, SampleTable, Throughput
from lightning_rlhf.callbacks.throughput import peak_of
from lightning_rlhf.errors import UserError
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


def test_the_peak_of_a_gpu_begins_with_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.device] = []
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", seen.append)
    for device in (torch.device("cuda", 1), torch.device("cpu")):
        Throughput().on_fit_start(None, SimpleNamespace(device=device))  # type: ignore[arg-type]
    assert seen == [torch.device("cuda", 1)]
    assert [peak_of(torch.device(name)) for name in ("cuda", "cpu")] == ["tensors", "whole process"]
