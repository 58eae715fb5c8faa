"""What the measured iterations say: medians of seconds, and rates by these medians."""

from collections.abc import Mapping, Sequence
from statistics import median

from lightning_rlhf.benchmark.flops import PHASES, Counted, honest, of_predecessors
from lightning_rlhf.benchmark.stopwatch import Iteration

TERA = 10**12


def rates(iterations: Sequence[Iteration], run: Counted, processes: int, peak: float) -> dict[str, float]:
    """The metrics of whole iterations.

    Args:
        iterations: The measured iterations.
        run: The models.
        processes: Number of processes, which share the FLOPs; samples and tokens are those of all processes.
        peak: FLOP/s of a device in a matrix product.
    """
    whole = median(sum(one.seconds.values()) for one in iterations)
    per_phase = phases(iterations, run, processes, peak, {})
    flops, seed_flops = (median(sum(count.values()) for count in counts) for counts in _flops(iterations, run))
    tokens = median(sum(one.prompts) + sum(one.responses) for one in iterations)
    return {
        "iteration_seconds": whole,
        **{f"{phase}_seconds": per_phase[phase]["seconds"] for phase in PHASES},
        "samples_per_second": len(iterations[0].prompts) / whole,
        "tokens_per_second": tokens / whole,
        "tflops": flops / whole / processes / TERA,
        "tflops_seed_formula": seed_flops / whole / processes / TERA,
        "gemm_tflops": peak / TERA,
        "gemm_share": flops / whole / processes / peak,
    }


def phases(
    iterations: Sequence[Iteration], run: Counted, processes: int, peak: float, memory: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """The metrics of each phase: seconds, rates, share of the peak, and memory.

    A rollout makes the tokens of the responses; scoring and each pass of an update read those of the whole rows.

    Args:
        iterations: The measured iterations.
        run: The models.
        processes: Number of processes, which share the FLOPs; samples and tokens are those of all processes.
        peak: FLOP/s of a device in a matrix product.
        memory: Peak bytes of tensors by phase; empty if they are not known.
    """
    both = _flops(iterations, run)
    found = {}
    for phase in PHASES:
        seconds = median(one.seconds[phase] for one in iterations)
        passes = run.ppo_epochs if phase == "update" else 1
        read = median(sum(one.responses) + (phase != "rollout") * sum(one.prompts) for one in iterations)
        flops, seed_flops = (median(count[phase] for count in counts) for counts in both)
        found[phase] = {
            "seconds": seconds,
            "samples_per_second": passes * len(iterations[0].prompts) / seconds,
            "tokens_per_second": passes * read / seconds,
            "tflops": flops / seconds / processes / TERA,
            "tflops_seed_formula": seed_flops / seconds / processes / TERA,
            "gemm_share": flops / seconds / processes / peak,
        }
        if phase in memory:
            found[phase]["peak_tensor_bytes"] = memory[phase]
    return found


def _flops(iterations: Sequence[Iteration], run: Counted) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """The FLOPs of each iteration by phase, in both counts."""
    return (
        [honest(run, one.prompts, one.responses, one.rescored) for one in iterations],
        [of_predecessors(run, one.prompts, one.responses) for one in iterations],
    )


def mean_lengths(iterations: Sequence[Iteration]) -> dict[str, float]:
    """The mean numbers of tokens of prompts and responses."""
    rows = sum(len(one.prompts) for one in iterations)
    return {
        "prompt": sum(sum(one.prompts) for one in iterations) / rows,
        "response": sum(sum(one.responses) for one in iterations) / rows,
    }
