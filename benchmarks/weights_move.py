"""Trains a model of two million parameters, built in fp32 and in bf16, under each strategy: which weights move?

    python benchmarks/weights_move.py FOLDER [strategy …]

Each run makes 16 steps of SFT or PPO in two CPU processes (`single`: in one), at the learning rate of the stage's own
configuration. A weight has moved if it differs from its value before the first step. If a strategy keeps fp32 copies of
trained weights, those are compared. The last column is the mean loss of the last four steps.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

STRATEGIES = (
    "single",
    "ddp",
    "fsdp",
    "fsdp2",
    "deepspeed_zero1",
    "deepspeed_zero2",
    "deepspeed_zero3",
    "colossalai_zero1",
    "colossalai_zero2",
)
WEIGHTS = {
    "fp32": ["trainer.precision=32-true"],
    "bf16, 32-true": ["model.dtype=bfloat16", "trainer.precision=32-true"],
    "bf16, bf16-mixed": ["model.dtype=bfloat16", "trainer.precision=bf16-mixed"],
    "bf16-true": ["model.dtype=bfloat16", "trainer.precision=bf16-true"],
}
STAGES = {
    "sft": ["+sft.trainer.max_steps=16", "sft.data.minibatch_size=8", "sft.module.lr=1e-5"],
    "ppo": [
        "ppo.trainer.max_epochs=1",
        "ppo.trainer.check_val_every_n_epoch=1",
        "+ppo.trainer.limit_val_batches=0",
        "ppo.module.rollout_batch_size=32",
        "ppo.module.minibatch_size=8",
        "rollout.sampling.max_new_tokens=16",
        "reward=length",
        "reward.function.unit=characters",
        "reward.function.maximum=60",
    ],
}
SETTINGS = ["experiment=none", "model=demo", "data=demo", "trainer=cpu", "logger=none"]


def main(folder: Path, strategies: list[str]) -> None:
    """Runs all cases, and prints a table."""
    print(f"| stage | strategy | weights | moved | first loss | last four |\n|{' --- |' * 6}")
    for stage in STAGES:
        for strategy in strategies:
            for weights in WEIGHTS:
                place = folder / f"{stage}_{strategy}_{weights.replace(', ', '_')}"
                found = place / "moved.json"
                if not found.exists():
                    place.mkdir(parents=True, exist_ok=True)
                    with (place / "log").open("w") as log:
                        command = [sys.executable, __file__, "run", str(place), stage, strategy, weights]
                        subprocess.run(command, stdout=log, stderr=log, check=False)
                if found.exists():
                    seen = json.loads(found.read_text())
                    losses = seen["losses"]
                    said = f"{seen['moved']:.2%} | {losses[0]:.4f} | {sum(losses[-4:]) / 4:.4f}"
                else:
                    lines = (place / "log").read_text().strip().splitlines()
                    said = f"{lines[-1][:100]} | |"
                print(f"| {stage} | {strategy} | {weights} | {said} |", flush=True)


def run(folder: Path, stage: str, strategy: str, weights: str) -> None:
    """Trains, and writes the share of the weights that moved."""
    from hydra import compose, initialize_config_module
    from lightning.pytorch import Callback
    from omegaconf import open_dict

    from lightning_rlhf.assembly.library_messages import silence_libraries
    from lightning_rlhf.assembly.renderer import load_renderer
    from lightning_rlhf.assembly.stage import fit, prepare
    from lightning_rlhf.distributed.phases import full_state_dict

    class Movement(Callback):
        def __init__(self) -> None:
            self.before: dict[str, Any] = {}
            self.losses: list[float] = []
            self.moved = 0.0

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.before = self.weights(trainer, pl_module)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
            self.losses.append(float(trainer.strategy.reduce(outputs["loss"].detach(), reduce_op="mean")))

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            after = self.weights(trainer, pl_module)
            moved = sum(int((after[name] != weight).sum()) for name, weight in self.before.items())
            self.moved = moved / max(1, sum(weight.numel() for weight in self.before.values()))

        def weights(self, trainer: Any, module: Any) -> dict[str, Any]:
            net = module.export_nets()["model"]
            trained = {name for name, weight in net.named_parameters() if weight.requires_grad}
            return {name: w.clone() for name, w in full_state_dict(trainer, net).items() if name in trained}

    silence_libraries()
    settings = [*SETTINGS, *STAGES[stage], *WEIGHTS[weights], f"stage={stage}", f"strategy={strategy}"]
    settings += [f"trainer.devices={1 if strategy == 'single' else 2}"]
    settings += [f"~callbacks.{name}" for name in ("checkpoint", "run_card", "progress", "export")]
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("train", settings)
    with open_dict(config):
        config.run_dir = str(folder / "run")
    prepared = prepare(config, stage, folder / "run", load_renderer(config))
    movement = Movement()
    prepared.trainer.callbacks.append(movement)  # type: ignore[attr-defined]
    prepared.data.setup("fit")
    fit(prepared, None)
    if prepared.trainer.is_global_zero:
        (folder / "moved.json").write_text(json.dumps({"moved": movement.moved, "losses": movement.losses}))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if sys.argv[1] == "run":
        run(Path(sys.argv[2]), *sys.argv[3:])
    else:
        main(Path(sys.argv[1]), sys.argv[2:] or list(STRATEGIES))
