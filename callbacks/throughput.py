"""Measures speed and memory."""

import resource
import sys
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_rlhf.distributed.phases import num_parameters
from lightning_rlhf.experience import Rollout
from lightning_rlhf.hooks import RLHFCallback
from lightning_rlhf.modules.stage_module import StageModule, trained_models
from lightning_rlhf.rollout.dataset import Minibatch

_COUNTED = ("rollout_seconds", "samples", "tokens", "trained_tokens", "rollout_flops")


class Throughput(RLHFCallback):
    """Logs `perf/…` at the end of each epoch (PPO: iteration), over all ranks.

    - `samples_per_second`, `tokens_per_second`: sequences and real tokens that the update read, by its seconds;
      a PPO iteration counts each sampled response once, by the seconds of rollout and update together.
    - `tflops`: floating point operations, 2 for each parameter that a token passes through: in a rollout once while it
      is sampled (with a key-value cache), and once in each scorer, which the actor is for the responses that it scores;
      in an update forwards and backwards, and once more for parameters that are trained. Attention is not counted.
      Source: Kaplan et al. (2020), section 2.1.
    - `rollout_seconds`, `update_seconds` and, after an evaluation, `evaluation_seconds`, which is part of neither and
      slows no rate; `peak_gib`, of the rank that needs most.
    """

    def __init__(self) -> None:
        """Starts all counts at zero."""
        self.seconds_before = 0.0
        self._reset()

    def _reset(self) -> None:
        self.start = time.perf_counter()
        self.rollout_seconds = self.evaluation_seconds = 0.0
        self.samples = self.rollout_flops = 0
        self.tokens: Tensor | int = 0
        self.trained_tokens: Tensor | int = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resets the peak memory of an earlier stage, if the device allows it."""
        reset_peak(pl_module.device)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of a resumed epoch, for which Lightning does not call `on_train_epoch_start`."""
        self.start = time.perf_counter() - self.seconds_before

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock and all counts at zero."""
        self._reset()

    def on_rollout_end(self, trainer: Trainer, module: Any, rollout: Rollout) -> None:
        """Counts the sampled responses."""
        self.rollout_seconds = rollout.seconds
        self.samples = len(rollout.prompts)
        self.tokens = tokens = int(rollout.experience.sequences.attention_mask.sum())
        sampled = num_parameters(trainer, module.roles.generator())
        rescored = {"actor": rollout.metrics.get("rescored_rate", 1)}
        scored = sum(rescored.get(role, 1) * num_parameters(trainer, net) for role, net in module.roles.nets().items())
        self.rollout_flops = int(2 * tokens * (sampled + scored))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Counts the tokens and samples that the update reads."""
        mask = batch.experience.sequences.attention_mask if isinstance(batch, Minibatch) else batch.attention_mask
        # The sum stays on the GPU until the epoch ends: reading it here would wait for the step before.
        tokens = mask.sum() * trainer.world_size
        self.trained_tokens = self.trained_tokens + tokens
        if not isinstance(batch, Minibatch):
            self.samples += len(mask) * trainer.world_size
            self.tokens = self.tokens + tokens

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of an evaluation."""
        self.evaluation_start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the evaluation, which Lightning runs before the epoch ends, out of the seconds of the epoch."""
        seconds = time.perf_counter() - self.evaluation_start
        self.start += seconds
        self.evaluation_seconds += seconds

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the rates."""
        seconds = time.perf_counter() - self.start
        metrics = {
            "samples_per_second": self.samples / seconds,
            "tokens_per_second": int(self.tokens) / seconds,
            "tflops": self._flops(trainer, pl_module) / seconds / 1e12,
            "update_seconds": seconds - self.rollout_seconds,
        }
        if self.rollout_seconds:
            metrics["rollout_seconds"] = self.rollout_seconds
        if self.evaluation_seconds:
            metrics["evaluation_seconds"] = self.evaluation_seconds
        pl_module.log_dict({f"perf/{name}": value for name, value in metrics.items()}, sync_dist=True)
        pl_module.log("perf/peak_gib", peak_bytes(pl_module.device) / 2**30, reduce_fx="max", sync_dist=True)

    def _flops(self, trainer: Trainer, module: LightningModule) -> int:
        """Returns the floating point operations of the epoch."""
        learners = module.learners() if isinstance(module, StageModule) else trained_models(module)
        passed = sum(num_parameters(trainer, net) for net in learners)
        trained = num_parameters(trainer, module, trained=True)
        return (4 * passed + 2 * trained) * int(self.trained_tokens) + self.rollout_flops

    def state_dict(self) -> dict[str, object]:
        """Returns the counts and seconds of an unfinished epoch."""
        counted = {name: getattr(self, name) for name in _COUNTED}
        counted |= {"tokens": int(self.tokens), "trained_tokens": int(self.trained_tokens)}
        return counted | {"seconds": time.perf_counter() - self.start}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Restores the counts and seconds."""
        for name in _COUNTED:
            setattr(self, name, state_dict[name])
        self.seconds_before = state_dict["seconds"]


def reset_peak(device: torch.device) -> None:
    """Resets the peak of a GPU to its current use; the peak on a CPU always counts from the start of the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_of(device: torch.device) -> str:
    """Returns what `peak_bytes` measures."""
    return "tensors" if device.type == "cuda" else "whole process"


def peak_bytes(device: torch.device) -> int:
    """Returns the peak memory so far, of the GPU's tensors, or of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts KiB, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
