"""Prints the result of a benchmark as tables."""

from pathlib import Path
from typing import Any

from rich.table import Table

from lightning_rlhf.console import console, number
from lightning_rlhf.sizes import readable


def print_benchmark(result: dict[str, Any], folder: Path) -> None:
    """Prints the models, the phases and the whole iteration.

    Args:
        result: The content of `result.json`.
        folder: Folder in which it was written.
    """
    metrics, hardware, lengths = result["metrics"], result["hardware"], result["mean_lengths"]
    console.say(
        f"{hardware['device']}, {hardware['processes']} process(es) with {result['threads']} thread(s) each; on "
        f"average {number(lengths['prompt'])} prompt tokens and {number(lengths['response'])} response tokens"
    )
    nets = _table("model", "parameters", "trained")
    for role, count in result["parameters"].items():
        nets.add_row(role, *(f"{count[kind] / 10**6:,.1f}M" for kind in ("total", "trained")))
    console.table(nets)
    rows = _table(
        "phase", "seconds", "samples/s", "tokens/s", "TFLOPS", "of GEMM", "ColossalAI's TFLOPS", "peak memory"
    )
    whole = {
        "seconds": metrics["iteration_seconds"],
        **{name: metrics[name] for name in result["phases"]["update"] if name != "seconds"},
    }
    for name, phase in [*result["phases"].items(), ("iteration", whole)]:
        rows.add_row(
            "scoring" if name == "score" else name,
            number(phase["seconds"]),
            number(phase["samples_per_second"]),
            number(phase["tokens_per_second"]),
            _three_digits(phase["tflops"]),
            f"{100 * phase['gemm_share']:.1f}%",
            _three_digits(phase["tflops_seed_formula"]),
            readable(phase["peak_tensor_bytes"]) if "peak_tensor_bytes" in phase else "-",
        )
    console.table(rows)
    peak = f"{readable(metrics['peak_rss_bytes'])} of the whole process"
    if "peak_tensor_bytes" in metrics:
        peak = f"{readable(metrics['peak_tensor_bytes'])} of tensors, {peak}"
    else:
        peak += " (that of tensors is not known, because on a CPU it takes glibc 2.33 or newer to measure it)"
    console.say(
        f"peak memory: {peak}; GEMM peak "
        f"{_three_digits(metrics['gemm_tflops'])} TFLOPS; medians of {len(result['iterations'])} iterations"
    )
    console.say(f"result: {folder / 'result.json'}")


def _three_digits(value: float) -> str:
    return f"{value:.3g}"


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for name in columns:
        table.add_column(name, justify="right")
    return table
