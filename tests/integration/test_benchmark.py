"""`lightning-rlhf benchmark` as a user runs it, and as Python calls it."""

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from support import command, result_of, run_folder

from lightning_rlhf.assembly.benchmark import benchmark
from lightning_rlhf.benchmark.stopwatch import Stopwatch
from lightning_rlhf.errors import UserError
from lightning_rlhf.interruption import Interrupted

SMALL = ["model=tiny", "rollout_batch_size=8", "minibatch_size=4", "ppo_epochs=1", "prompt_length=6", "repeats=2"]
METRICS = {
    *("iteration_seconds", "rollout_seconds", "score_seconds", "update_seconds"),
    *("samples_per_second", "tokens_per_second", "tflops", "tflops_seed_formula", "gemm_tflops", "gemm_share"),
    *("peak_tensor_bytes", "peak_rss_bytes"),
}


def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Runs `lightning-rlhf benchmark` in a folder."""
    return command(folder, *SMALL, *overrides, name="benchmark")


def measured(folder: Path, *overrides: str) -> dict[str, Any]:
    """Runs a benchmark in this process."""
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return benchmark(compose("benchmark", [f"run_dir={folder}", *SMALL, *overrides]), folder)


def test_a_benchmark_prints_its_phases_and_leaves_every_metric(tmp_path: Path) -> None:
    done = run(tmp_path, "response_length=5")
    assert done.returncode == 0, done.stderr
    result = result_of(run_folder(tmp_path))
    metrics = result["metrics"]
    assert set(metrics) == METRICS
    assert all(value > 0 for value in metrics.values())
    assert metrics["samples_per_second"] == pytest.approx(8 / metrics["iteration_seconds"])
    assert metrics["tokens_per_second"] == pytest.approx(8 * 11 / metrics["iteration_seconds"])
    assert set(result["phases"]) == {"rollout", "score", "update"}
    peaks = [phase["peak_tensor_bytes"] for phase in result["phases"].values()]
    assert max(peaks) == metrics["peak_tensor_bytes"]
    table = done.stdout[done.stdout.index("peak memory") :]
    # Each phase and the iteration show their peaks.
    assert table[: table.index("peak memory:")].count("iB") == 4
    assert len(result["iterations"]) == 2
    assert result["mean_lengths"] == {"prompt": 6.0, "response": 5.0}
    words = done.stdout.split()
    assert {"rollout", "scoring", "update", "iteration", "TFLOPS", "actor", "critic", "reference"} <= set(words)
    # No warning of a library, and no message of ours.
    assert done.stderr == ""


def test_geometric_lengths_differ_and_stay_within_the_limit(tmp_path: Path) -> None:
    settings = ["length_distribution=geometric", "mean_response_length=4", "response_length=12", "repeats=6"]
    lengths = measured(tmp_path, *settings, "rollout_batch_size=32")["mean_lengths"]
    # 192 lengths, whose mean below the limit of 12 is 4 (1 - (3/4)^12) = 3.87, with a standard deviation of 2.9 each.
    assert lengths["response"] == pytest.approx(3.87, abs=0.7)


def test_fixed_lengths_are_never_shorter(tmp_path: Path) -> None:
    # A model with random weights draws each of 814 tokens alike: 6,144 tokens without EOS happen once in 1,900 runs.
    settings = ["response_length=48", "rollout_batch_size=64", "minibatch_size=64", "repeats=2", "warmup=0"]
    assert measured(tmp_path, *settings)["mean_lengths"]["response"] == 48


def test_prompts_have_lengths_between_the_bounds(tmp_path: Path) -> None:
    lengths = measured(tmp_path, "min_prompt_length=2", "response_length=2")["mean_lengths"]
    assert 2 < lengths["prompt"] < 6


@pytest.mark.parametrize(
    ("overrides", "roles"),
    [
        (["adapter=lora"], {"actor", "critic", "reference"}),
        (["adapter=lora", "roles=shared", "length_distribution=geometric"], {"backbone"}),
        (["algorithm=rloo"], {"actor", "reference"}),
        (["random_reward_model=true"], {"actor", "critic", "reference", "reward"}),
    ],
)
def test_every_kind_of_role_is_measured(overrides: list[str], roles: set[str], tmp_path: Path) -> None:
    result = measured(tmp_path, "response_length=3", "repeats=1", *overrides)
    assert roles <= set(result["parameters"])
    assert result["metrics"]["tflops"] > 0


def test_the_meter_sees_gradients_and_optimizer_states(tmp_path: Path) -> None:
    full = measured(tmp_path / "full", "response_length=3", "repeats=1", "model.config.hidden_size=64")
    weights = 4 * sum(net["total"] for net in full["parameters"].values())
    trained = 4 * sum(net["trained"] for net in full["parameters"].values())
    # Weights, gradients, and two averages for each trained weight; activations come on top.
    assert full["metrics"]["peak_tensor_bytes"] > weights + 3 * trained
    assert full["metrics"]["peak_rss_bytes"] > full["metrics"]["peak_tensor_bytes"]


def test_the_update_needs_more_memory_than_the_phases_without_gradients(tmp_path: Path) -> None:
    phases = measured(tmp_path, "response_length=3", "repeats=1", "model.config.hidden_size=64")["phases"]
    peaks = {name: phase["peak_tensor_bytes"] for name, phase in phases.items()}
    assert peaks["update"] > peaks["rollout"]
    assert peaks["update"] > peaks["score"]


@pytest.mark.parametrize(
    ("overrides", "passes"),
    # The critic, which has no such head, and the reference; and in 16 bits the actor too.
    [([], 1), (["trainer.precision=bf16-mixed"], 2)],
)
def test_the_scoring_of_the_actor_counts_where_it_happens(overrides: list[str], passes: int, tmp_path: Path) -> None:
    settings = ["response_length=3", "repeats=1", "rollout_batch_size=32", "algorithm=rloo"]
    phases = measured(tmp_path, *settings, *overrides)["phases"]
    flops = {name: phase["tflops"] * phase["seconds"] for name, phase in phases.items()}
    # A rollout is one pass of the actor. In fp32 the actor scores the longest of 32 responses alone.
    assert flops["score"] / flops["rollout"] == pytest.approx(passes + (passes == 1) / 32)


def test_a_wrong_setting_is_one_message_and_leaves_no_folder(tmp_path: Path) -> None:
    done = run(tmp_path, "length_distribution=uniform", "warmup=-1")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 2
    assert "length_distribution=uniform: expected fixed or geometric" in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_ctrl_c_ends_a_benchmark_and_is_not_turned_into_an_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(Stopwatch, "on_train_epoch_end", interrupt)
    with pytest.raises(Interrupted) as stopped:
        measured(tmp_path, "response_length=2")
    assert stopped.value.number == signal.SIGTERM
    assert not list(tmp_path.glob("result.json"))


def test_a_run_that_ends_early_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = Stopwatch.on_train_epoch_end

    def stop(watch: Stopwatch, trainer: Any, module: Any) -> None:
        ended(watch, trainer, module)
        trainer.should_stop = True

    monkeypatch.setattr(Stopwatch, "on_train_epoch_end", stop)
    with pytest.raises(UserError, match="^repeats=2: the run ended after 1 of 4 iterations: leave out the setting"):
        measured(tmp_path, "response_length=2")


def test_without_a_meter_a_benchmark_says_why_a_metric_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lightning_rlhf.benchmark.memory.measures", lambda: False)
    assert METRICS - measured(tmp_path, "response_length=2")["metrics"].keys() == {"peak_tensor_bytes"}
    assert "takes glibc 2.33 or newer to measure it" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path: Path) -> None:
    done = run(tmp_path, "strategy=ddp", "trainer.devices=2", "response_length=3")
    assert done.returncode == 0, done.stderr
    result = result_of(run_folder(tmp_path))
    assert result["hardware"]["processes"] == 2
    assert result["mean_lengths"]["response"] == 3
    assert done.stdout.count("2 process(es) with 1 thread(s) each") == 1


@pytest.mark.slow
def test_several_models_and_strategies_end_in_one_table(tmp_path: Path) -> None:
    swept = ["model=tiny,gpt2/bench_tiny", "strategy=single,fsdp2", "trainer.devices=1", "response_length=3"]
    done = command(tmp_path, "-m", *SMALL[1:], *swept, name="benchmark")
    assert done.returncode == 0, done.stderr
    table = done.stdout[done.stdout.rindex(" run ") :].splitlines()
    assert {"model", "strategy", "iteration_seconds", "tflops_seed_formula"} <= set(table[0].split())
    assert [row.split()[0] for row in table[1:5]] == ["0", "1", "2", "3"]
