"""Draws `docs/randomwalks.png` and prints the table of `docs/randomwalks.md` from run folders.

python docs/draw_randomwalks.py outputs/sft_ppo/<run> …
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt

from lightning_rlhf.report.numbers import before, final
from lightning_rlhf.report.read import read_run

UNIFORM_WALKER = 0.3462


def main(folders: list[str]) -> None:
    """Draws a curve and prints a row for each run."""
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    print("| seed | optimality after SFT | optimality after PPO | seconds |\n| --- | --- | --- | --- |")
    for run in map(read_run, map(Path, folders)):
        ppo = next(stage for stage in run.stages if stage.name == "ppo")
        curve = ppo.series["val/optimality"]
        axes.plot(curve.x, curve.y, marker="o", markersize=3, label=f"seed {run.result.seed}")
        start, end = before(ppo, "optimality"), final(ppo, "optimality")
        print(f"| {run.result.seed} | {start:.3f} | **{end:.3f}** | {run.result.seconds:.0f} |")
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.axhline(UNIFORM_WALKER, color="black", linewidth=0.8, linestyle="--", label="uniform walker, 0.346")
    axes.set(
        xlabel="PPO iteration (128 walks)", ylabel="mean optimality, 320 sampled walks", ylim=(0, 1.05), xlim=(0, None)
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(Path(__file__).with_name("randomwalks.png"), dpi=120)


if __name__ == "__main__":
    main(sys.argv[1:])
