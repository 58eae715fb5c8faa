"""Records what `Health` saw in runs of the demo, for `unit/callbacks/test_health.py`: half an hour on two cores.

    python tests/record_demo_runs.py

The runs are in `outputs/recorded/`. A run that has finished there is not repeated.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

STORE = Path(__file__).parent / "unit" / "callbacks" / "demo_runs.json"
FOLDER = Path("outputs/recorded")
# `Health` keeps only the first and the latest values of a run; here it keeps all of them.
TRAIN = (
    "from lightning_rlhf.callbacks import health; health.NUM_LATEST = 10**9; "
    "from lightning_rlhf.cli.train import main; main()"
)
SEEDS = (1, 2, 3)
ITERATIONS = (
    "rollout/score_mean",
    "rollout/score_std",
    "rollout/kl",
    "rollout/entropy",
    "rollout/response_length",
    "rollout/eos_rate",
    "rollout/explained_variance",
    "train/clip_fraction",
    "rollout/kl_error",
    "rollout/distinct_1",
    "rollout/distinct_2",
)
EVERY_SECOND = "ppo.trainer.check_val_every_n_epoch=2"
EVALUATIONS = ("gold/mean", "gold/error", "gold/score", "gold/kl")


def main() -> None:
    """Trains the runs that are missing, and writes the store."""
    runs = {f"seed {seed}": train(f"seed_{seed}", f"seed={seed}") / "ppo" for seed in SEEDS}
    variants = {
        "long": (2, ["ppo.trainer.max_epochs=32"]),
        "hacked": (1, ["ppo.module.kl_coef=0", "ppo.module.lr=6e-4", "ppo.trainer.max_epochs=20", EVERY_SECOND]),
        "broken": (1, ["ppo.module.lr=5e-3", EVERY_SECOND]),
    }
    for name, (seed, overrides) in variants.items():
        pipeline = FOLDER / f"seed_{seed}"
        models = [f"model.pretrained={pipeline}/sft/model", f"reward.path={pipeline}/reward/model"]
        runs[name] = train(name, "stage=ppo", f"seed={seed}", *models, *overrides)
    STORE.write_text(layout({name: recorded(folder) for name, folder in runs.items()}))


def train(name: str, *overrides: str) -> Path:
    """Returns the folder of a run, which is trained if it has not finished yet."""
    folder = FOLDER / name
    result = folder / "result.json"
    if not result.exists() or json.loads(result.read_text())["status"] != "finished":
        subprocess.run([sys.executable, "-c", TRAIN, f"hydra.run.dir={folder}", *overrides], check=True)
    return folder


def recorded(folder: Path) -> dict[str, Any]:
    """Reads what `Health` saw in a run of PPO, with four significant digits."""
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    history = checkpoint["callbacks"]["Health"]["history"]
    seen = {name: [float(f"{value:.4g}") for value in values] for name, values in history.items()}
    num_iterations, num_evaluations = len(seen["rollout/kl"]), len(seen["gold/mean"])
    step = num_iterations // (num_evaluations - 1)
    return {
        "iterations": {name: seen[name] for name in ITERATIONS},
        "evaluations": {"iteration": list(range(0, num_iterations + 1, step))}
        | {name: seen[name] for name in EVALUATIONS},
        "updates": {"train/grad_norm": seen["train/grad_norm"]},
    }


def layout(runs: dict[str, Any]) -> str:
    """Formats JSON with the values of one metric on a line."""
    lists: list[str] = []

    def mark(node: Any) -> Any:
        if isinstance(node, dict):
            return {name: mark(child) for name, child in node.items()}
        lists.append(json.dumps(node))
        return f"list {len(lists) - 1}"

    text = json.dumps(mark(runs), indent=2)
    for number, values in enumerate(lists):
        text = text.replace(f'"list {number}"', values, 1)
    return text + "\n"


if __name__ == "__main__":
    main()
