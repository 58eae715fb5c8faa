"""Medians and rates of known iterations."""

import pytest
from tiny_jobs import job

from lightning_rlhf.benchmark.flops import counted, honest
from lightning_rlhf.benchmark.rates import mean_lengths, phases, rates
from lightning_rlhf.benchmark.stopwatch import Iteration

RUN = counted(job(reward=None, ppo_epochs=2))
PROMPTS, RESPONSES, RESCORED = [4, 6], [3, 5], [False, True]
ITERATIONS = [
    Iteration({"rollout": rollout, "score": score, "update": update}, PROMPTS, RESPONSES, RESCORED)
    for rollout, score, update in [(1.0, 2.0, 5.0), (2.0, 1.0, 3.0), (9.0, 1.0, 4.0)]
]


def test_an_iteration_takes_the_median_of_whole_iterations() -> None:
    found = rates(ITERATIONS, RUN, 1, 1e12)
    # Whole iterations take 8, 6 and 14 seconds.
    assert found["iteration_seconds"] == 8
    assert (found["rollout_seconds"], found["score_seconds"], found["update_seconds"]) == (2, 1, 4)
    assert found["samples_per_second"] == 2 / 8
    assert found["tokens_per_second"] == (4 + 6 + 3 + 5) / 8


def test_each_phase_counts_the_tokens_that_it_makes_or_reads() -> None:
    found = phases(ITERATIONS, RUN, 1, 1e12, {})
    assert found["rollout"]["tokens_per_second"] == 8 / 2
    assert found["score"]["tokens_per_second"] == 18 / 1
    # Two passes over the rows.
    assert found["update"]["tokens_per_second"] == 2 * 18 / 4
    assert found["update"]["samples_per_second"] == 2 * 2 / 4


def test_flops_are_shared_by_the_processes_and_compared_with_the_peak_of_each() -> None:
    one, two = (rates(ITERATIONS, RUN, processes, 4e6) for processes in (1, 2))
    expected = sum(honest(RUN, PROMPTS, RESPONSES, RESCORED).values()) / 8
    assert one["tflops"] == pytest.approx(expected / 1e12)
    assert one["gemm_share"] == pytest.approx(expected / 4e6)
    assert two["tflops"] == pytest.approx(one["tflops"] / 2)
    assert two["tflops_seed_formula"] == pytest.approx(one["tflops_seed_formula"] / 2)
    assert two["gemm_share"] == pytest.approx(one["gemm_share"] / 2)
    assert two["tokens_per_second"] == one["tokens_per_second"]


def test_a_phase_has_its_own_peak_of_memory_if_it_is_known() -> None:
    found = phases(ITERATIONS, RUN, 1, 1e12, {"rollout": 1, "score": 2, "update": 3})
    assert {phase: values["peak_tensor_bytes"] for phase, values in found.items()} == {
        "rollout": 1,
        "score": 2,
        "update": 3,
    }
    assert "peak_tensor_bytes" not in phases(ITERATIONS, RUN, 1, 1e12, {})["score"]


def test_mean_lengths_are_those_of_all_rows() -> None:
    assert mean_lengths(ITERATIONS) == {"prompt": 5.0, "response": 4.0}
