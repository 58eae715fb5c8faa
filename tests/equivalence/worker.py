"""Runs stages of the real configuration with a strategy, and records the numbers of each step.

    python tests/equivalence/worker.py FOLDER NAME [override …]

NAME is a strategy. The script writes trajectory.json, checkpoints and export to FOLDER/<stage>/. Every process of a run
is started with these arguments, by Lightning or by torchrun. The overrides apply to every stage. `stages=sft,ppo`
chooses stages, `start=FOLDER` names the run whose exports PPO starts from, `resume=FOLDER` names the run to continue,
`die=yes` kills the processes at the end, and `stops=4` lets every fourth id of the vocabulary end a response.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

import torch
import torch.distributed as dist
from hydra import compose, initialize_config_module
from lightning.pytorch import Trainer
from omegaconf import open_dict
from torch.distributed.tensor import DTensor

from lightning_rlhf.assembly.handoff import handed_on
from lightning_rlhf.assembly.library_messages import silence_libraries
from lightning_rlhf.assembly.renderer import load_renderer
from lightning_rlhf.assembly.stage import fit, prepare
from lightning_rlhf.callbacks import Health
from lightning_rlhf.distributed.shapes import whole_shape
from lightning_rlhf.distributed.weight_movement import Movement
from lightning_rlhf.experience import Rollout
from lightning_rlhf.hooks import RLHFCallback
from lightning_rlhf.stages import stage_record

STAGES = ("sft", "reward", "ppo")
EPOCHS, STEPS_PER_EPOCH = 2, 3
OPTIONS = ("stages", "start", "resume", "die", "stops")
SETTINGS = [
    "model=tiny",
    "experiment=none",
    "data=demo",
    "trainer=cpu",
    "logger=none",
    "callbacks.checkpoint.filename='epoch_{epoch}'",
    "+callbacks.checkpoint.auto_insert_metric_name=false",
    "callbacks.checkpoint.save_top_k=-1",
    "~callbacks.progress",
    "~callbacks.run_card",
    "~callbacks.nets",
    "rollout.sampling.max_new_tokens=8",
    "rollout.evaluation.max_new_tokens=8",
    # With a smaller epsilon, Adam would turn gradients that are only rounding noise into whole steps.
    "++optim.optimizer.eps=1e-5",
    # With this bound, the first iteration moves the weights visibly before the second samples from them.
    "trainer.gradient_clip_val=0.5",
]
OF_STAGE = {
    "sft": ["sft.module.lr=1e-3", "sft.data.minibatch_size=8", "sft.trainer.max_epochs=2"],
    "reward": [
        "reward_model.module.lr=1e-3",
        "reward_model.data.minibatch_size=8",
        "reward_model.trainer.max_epochs=2",
        # An odd number cannot be split evenly over two processes.
        "reward_model.callbacks.normalize.num_samples=15",
    ],
    "ppo": [
        "ppo.module.lr=1e-3",
        "ppo.module.critic_lr=1e-3",
        "ppo.module.rollout_batch_size=24",
        "rollout.micro_batch_size=8",
        "ppo.module.minibatch_size=8",
        "ppo.module.ppo_epochs=1",
        # With this weight, the gradients of actor and critic both exceed the bound, each by a factor of its own.
        "ppo.module.loss.vf_coef=1.0",
        "ppo.trainer.max_epochs=2",
        "ppo.trainer.check_val_every_n_epoch=2",
    ],
}
LIMITS = {
    "sft": [
        "+sft.trainer.limit_train_batches={batches}",
        "+sft.trainer.limit_val_batches=1",
        "sft.data.val_batch_size={val_rows}",
    ],
    "reward": [
        "+reward_model.trainer.limit_train_batches={batches}",
        "+reward_model.trainer.limit_val_batches=1",
        "reward_model.data.val_batch_size={val_rows}",
    ],
    "ppo": ["+ppo.trainer.limit_val_batches=1", "ppo.data.val_batch_size={val_rows}"],
}


class Recorder(RLHFCallback):
    """Records the numbers of each optimizer step and rollout, and the share of the frozen weights in this process."""

    def __init__(self) -> None:
        self.parts: list[float] = []
        self.numbers: dict[str, list[float]] = {"loss": [], "logged_loss": [], "score": [], "kl": [], "lengths": []}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        frozen = [weight for weight in pl_module.parameters() if not weight.requires_grad]
        whole = sum(getattr(weight, "ds_numel", whole_shape(weight).numel()) for weight in frozen)
        self.numbers["frozen_here"] = [numel_here(frozen) / whole] if frozen else []
        self.movement = Movement(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.numbers["moved"] = [self.movement.share(trainer) or 0.0]

    def on_rollout_end(self, trainer: Trainer, module: Any, rollout: Rollout) -> None:
        self.numbers["score"].append(rollout.metrics["score_mean"])
        self.numbers["kl"].append(rollout.metrics["kl"])
        # The mask contains the responses of all processes, one process after the other.
        self.numbers["lengths"] += rollout.experience.sequences.response_mask.sum(1).tolist()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        # Lightning divides each loss by the number of accumulated parts, so their sum is the loss of the minibatch.
        self.parts.append(float(outputs["loss"]))
        if len(self.parts) == trainer.accumulate_grad_batches:
            total = torch.tensor(sum(self.parts), dtype=torch.float64)
            if dist.is_initialized():
                dist.all_reduce(total)
            self.numbers["loss"].append(float(total) / trainer.world_size)
            self.parts = []
            if pl_module.sampling is None:
                self.numbers["logged_loss"].append(float(trainer.callback_metrics["train/loss"]))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        # PPO logs the mean over the updates of an iteration.
        if pl_module.sampling is not None:
            self.numbers["logged_loss"].append(float(trainer.callback_metrics["train/loss"]))


def numel_here(weights: list[Any]) -> int:
    """Counts the elements of the weights that are in the memory of this process."""
    shares = [getattr(weight, "ds_tensor", weight) for weight in weights]
    shares = [share.to_local() if isinstance(share, DTensor) else share for share in shares]
    # FSDP1 keeps the weights of a block in one storage, which is counted once.
    memories = {share.untyped_storage().data_ptr(): share.untyped_storage() for share in shares}
    return sum(memory.nbytes() // weights[0].element_size() for memory in memories.values())


def run(folder: Path, strategy: str, arguments: list[str]) -> None:
    silence_libraries()
    options = dict(a.split("=", 1) for a in arguments if a.split("=")[0] in OPTIONS)
    overrides = [a for a in arguments if a.split("=")[0] not in OPTIONS]
    given = dict(o.split("=", 1) for o in overrides)
    processes = int(given.get("trainer.devices", 1)) * int(given.get("trainer.num_nodes", 1))
    accumulate = int(given.get("STAGE.trainer.accumulate_grad_batches", 1))
    for stage in options.get("stages", ",".join(STAGES)).split(","):
        mine = [o.replace("STAGE.", f"{stage_record(stage).block}.") for o in overrides]
        batches = STEPS_PER_EPOCH * accumulate
        limits = [limit.format(batches=batches, val_rows=32 // processes) for limit in LIMITS[stage]]
        settings = [*SETTINGS, *OF_STAGE[stage], *limits, f"strategy={strategy}", f"stage={stage}", *mine]
        with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
            config = compose("train", settings)
        with open_dict(config):
            config.run_dir = str(folder / stage)
        if stage == "ppo":
            earlier = {name: Path(options["start"]) / name / "model" for name in ("sft", "reward")}
            config = handed_on(config, earlier)
        renderer = load_renderer(config)
        if "stops" in options:
            renderer.stop_ids = tuple(range(0, config.model.config.vocab_size, int(options["stops"])))
        prepared = prepare(config, stage, folder / stage, renderer)
        recorder = Recorder()
        prepared.trainer.callbacks.append(recorder)  # type: ignore[attr-defined]
        prepared.data.setup("fit")
        resumed = Path(options["resume"]) / stage / "checkpoints" / "epoch_0.ckpt" if "resume" in options else None
        result = fit(prepared, resumed)
        if prepared.trainer.is_global_zero:
            health = next(c for c in prepared.trainer.callbacks if isinstance(c, Health))  # type: ignore[attr-defined]
            norms = {name.removeprefix("train/"): seen for name, seen in health.history.items() if "grad_norm" in name}
            numbers = recorder.numbers | norms | {"val": result["metrics"]}
            (folder / stage / "trajectory.json").write_text(json.dumps(numbers))
    if "die" in options:
        if dist.is_initialized():
            # The death of one process ends the others, and the first process must have written its numbers before.
            dist.barrier()
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
