"""Compares gathering a sharded actor layer by layer for each sampled token with gathering it once for a rollout.

    python benchmarks/gather.py [strategy …]

The rollouts are those of the demo's model in two CPU processes. The factor compares a strategy with its own rollout in
which the actor was gathered once.
"""

import csv
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

STRATEGIES = ["fsdp2", "fsdp", "deepspeed_zero3"]
SETTINGS = [
    "stage=ppo",
    "trainer.devices=2",
    "ppo.trainer.max_epochs=4",
    "ppo.trainer.check_val_every_n_epoch=4",
    "+ppo.trainer.limit_val_batches=0",
    "ppo.module.rollout_batch_size=64",
    "ppo.module.minibatch_size=32",
    "ppo.module.ppo_epochs=1",
    "reward=length",
    "~callbacks.run_card",
    "~callbacks.export",
]


def rollout_seconds(strategy: str, gather: bool) -> float:
    """The median seconds of a rollout, without the first one, in which libraries initialise themselves."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "lightning_rlhf.cli", "train", *SETTINGS, f"strategy={strategy}"]
            + [f"trainer.strategy.gather_for_generation={gather}", "hydra.run.dir=run"],
            cwd=folder,
            check=True,
            capture_output=True,
        )
        rows = list(csv.DictReader((Path(folder) / "run" / "metrics.csv").open()))
    return median([float(row["perf/rollout_seconds"]) for row in rows if row.get("perf/rollout_seconds")][1:])


def main() -> None:
    """Prints a line for each strategy."""
    for strategy in sys.argv[1:] or STRATEGIES:
        once, each = (rollout_seconds(strategy, gather) for gather in (True, False))
        print(f"{strategy}: once {once:.2f} s; layer by layer {each:.2f} s, {each / once:.1f} times", flush=True)


if __name__ == "__main__":
    main()
