"""Watches a run for signs of problems, and reports them during the run."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from statistics import fmean, pstdev
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_rlhf.callbacks import alarm_rules, ppo_alarm_rules  # noqa: F401 (importing them registers the alarms)
from lightning_rlhf.callbacks.alarms import ALARMS, NUM_LATEST, alarm_problems
from lightning_rlhf.callbacks.diversity import distinct
from lightning_rlhf.callbacks.skipped_steps import SkippedSteps
from lightning_rlhf.distributed.clipping import grad_norms, last_grad_norms
from lightning_rlhf.distributed.weight_movement import Movement
from lightning_rlhf.errors import raise_problems
from lightning_rlhf.experience import Rollout
from lightning_rlhf.hooks import RLHFCallback, StepNumbers
from lightning_rlhf.modules.finite import check_finite

log = logging.getLogger(__name__)

_NORM = "train/grad_norm"
# Metrics of each iteration that only this callback logs.
_OWN = ("rollout/distinct_1", "rollout/distinct_2", "train/first_log_ratio")
# The number of first values of each name, to which rules compare.
_NUM_FIRST = 10
# One of this many optimizer steps is checked for the share of weights that it moves.
_MOVES = 16


class Health(RLHFCallback):
    """Rings the registered alarms: logs a line when one rings for the first time, and stores it for `result.json`.

    A step whose gradient is not finite would destroy the weights. It is skipped, and its batch is saved in the folder
    `not_finite`; too many such steps in a row end the run with an error.

    Logs `health/<alarm>` (1 if it rang since the last epoch or iteration, else 0), the norm of the gradient before
    clipping (`train/grad_norm` of all trained weights and, if there are several roles, `train/grad_norm_<role>` of
    each), `train/moved_fraction` of every 16th optimizer step, and of PPO `rollout/distinct_1`, `rollout/distinct_2`
    and `train/first_log_ratio`.
    """

    def __init__(
        self,
        alarms: Mapping[str, Mapping[str, float]] | None = None,
        stop_on: Sequence[str] = (),
        skip_steps: int = 3,
    ) -> None:
        """Stores the settings that differ from the defaults.

        Args:
            alarms: The changed `threshold` or `window` of alarms, by name.
            stop_on: The names of the alarms that stop the run.
            skip_steps: Number of steps in a row that are skipped because the gradient is not finite; the next one ends
                the run. Strategies that know the gradient only after the step skip none.

        Raises:
            UserError: If a name is unknown or a value is impossible; the message lists all of them.
        """
        changes: Mapping[str, Any] = alarms or {}
        raise_problems(alarm_problems(changes, stop_on))
        self.alarms = {name: replace(alarm, **changes.get(name, {})) for name, alarm in ALARMS.items()}
        self.stop_on = list(stop_on)
        self.skipped = SkippedSteps(skip_steps)
        self.stopped_by: str | None = None
        self.history: dict[str, list[float]] = {}
        self.begun: dict[str, dict[str, Any]] = {}
        self.rang: set[str] = set()
        self.step = 0
        self.movement: Movement | None = None

    def on_rollout_end(self, trainer: Trainer, module: LightningModule, rollout: Rollout) -> None:
        """Watches the sampled responses."""
        sequences = rollout.experience.sequences
        self._watch({f"rollout/{name}": value for name, value in rollout.metrics.items()})
        self._watch(
            {
                "rollout/kl_error": float(rollout.kl.std(correction=0)) / len(rollout.kl) ** 0.5,
                "rollout/distinct_1": distinct(sequences.responses, sequences.response_mask, 1),
                "rollout/distinct_2": distinct(sequences.responses, sequences.response_mask, 2),
            }
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stores the first step; a resumed run does not start at 0."""
        self.step, self.movement = trainer.global_step, None
        self._look_at_weights(trainer)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Watches the gradient of a minibatch; outside PPO it also rings, because an epoch may be the whole run."""
        self._take_norms(trainer, pl_module, grad_norms(trainer, optimizer), optimizer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keeps the micro-batches of a step."""
        self.skipped.begin(batch)

    def _take_norms(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        norms: Mapping[str, Tensor] | None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        if not norms:
            return
        in_ppo = self._in_ppo()
        named = {_NORM: torch.stack(list(norms.values())).norm()}
        if len(norms) > 1:
            named |= {f"{_NORM}_{role}": norm for role, norm in norms.items()}
        pl_module.log_dict(named, on_step=not in_ppo, on_epoch=in_ppo, batch_size=1, sync_dist=in_ppo)
        # One transfer from the device for each optimizer step, because a step that is not finite must not be taken.
        values = dict(zip(named, torch.stack(list(named.values())).tolist(), strict=True))
        # Under fp16, gradients overflow now and then; the scaler then skips the step and lowers its scale.
        finite = isfinite(values[_NORM])
        if not finite and getattr(trainer.precision_plugin, "scaler", None) is not None:
            return
        # The norm is that of all ranks, so they skip the step or end the run together.
        if self.skipped.skips(trainer, optimizer, values):
            return
        self._watch(values)
        if not in_ppo or not finite:
            self._ring(trainer)
        check_finite(trainer, values, self.skipped.where)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: object) -> None:
        """Watches a norm that is known only after the step."""
        if trainer.global_step > self.step:
            self._take_norms(trainer, pl_module, last_grad_norms(trainer))
            self.skipped.end()
            self.step = trainer.global_step
            self._look_at_weights(trainer)

    def on_step_numbers(self, trainer: Trainer, module: LightningModule, numbers: StepNumbers) -> None:
        """Watches the loss of each logged step; in PPO its value says little."""
        if not self._in_ppo() and numbers.loss is not None:
            self._watch({"step/loss": float(numbers.loss)})

    def on_loss(self, trainer: Trainer, module: LightningModule, batch_idx: int, terms: Mapping[str, Tensor]) -> None:
        """Watches the ratio in the first update of an iteration of PPO, which must be 1."""
        if batch_idx == 0:
            # approx_kl is half the mean square of the log-ratio.
            self._watch({"train/first_log_ratio": (2 * float(terms["approx_kl"])) ** 0.5})

    def _look_at_weights(self, trainer: Trainer) -> None:
        """Compares weights before and after each 16th step, counted so that a resumed run checks the same steps."""
        if self.movement is not None:
            share = self.movement.share(trainer)
            # A skipped step moves no weights; under fp16, the scaler skips some.
            skips = self.skipped.in_a_row or getattr(trainer.precision_plugin, "scaler", None) is not None
            if share is not None and (share or not skips):
                # The module would log the value again with each step until the epoch ends.
                for logger in trainer.loggers:
                    logger.log_metrics({"train/moved_fraction": share}, step=self.step - 1)
                self._watch({"train/moved_fraction": share})
        self.movement = Movement(trainer) if (self.step + 1) % _MOVES == 0 else None

    def on_evaluation_end(
        self, trainer: Trainer, module: LightningModule, iteration: int, samples: list[dict[str, Any]]
    ) -> None:
        """Watches gold score, score and KL of answers to held-out prompts, including those before training."""
        samples = [sample for sample in samples if {"gold", "score", "kl"} <= sample.keys()]
        if not samples:
            return
        gold, score, kl = ([float(sample[name]) for sample in samples] for name in ("gold", "score", "kl"))
        self._watch({"gold/mean": fmean(gold), "gold/error": pstdev(gold) / len(gold) ** 0.5})
        self._watch({"gold/score": fmean(score), "gold/kl": fmean(kl)})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watches the metrics on held-out data."""
        if not trainer.sanity_checking:
            self._watch(_logged(trainer, "val/"))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watches the metrics of the update, rings alarms, and logs."""
        own = (_NORM, "train/moved_fraction", *_OWN)
        logged = _logged(trainer, "train/").items()
        # The means of an epoch with a skipped step are not finite, although the weights are.
        odd, self.skipped.in_epoch = self.skipped.in_epoch, False
        self._watch(
            {name: value for name, value in logged if not name.startswith(own) and (isfinite(value) or not odd)}
        )
        self._ring(trainer)
        known = {name for name, alarm in self.alarms.items() if alarm.knows(self.history)}
        metrics = {f"health/{name}": float(name in self.rang) for name in sorted(known)}
        metrics |= {name: self.history[name][-1] for name in _OWN if name in self.history}
        if self.skipped.total:
            metrics["health/skipped_steps"] = float(self.skipped.total)
        pl_module.log_dict(metrics, sync_dist=True)
        self.rang = set()

    def _in_ppo(self) -> bool:
        return "rollout/kl" in self.history

    def _watch(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            seen = self.history.setdefault(name, [])
            seen.append(value)
            del seen[_NUM_FIRST:-NUM_LATEST]

    def _ring(self, trainer: Trainer) -> None:
        """Rings the alarms whose rule applies now, and stops the run if one of them is in `stop_on`."""
        found = {name: alarm.evidence(self.history) for name, alarm in self.alarms.items()}
        rings = {name: evidence for name, evidence in found.items() if evidence is not None}
        self.rang |= rings.keys()
        for name, evidence in rings.items():
            if name not in self.begun:
                self._begin(trainer, name, evidence)
        if self.stop_on:
            reasons = [name for name in self.stop_on if name in rings]
            # All ranks stop together, even if gradients are divided and each rank sees only its own.
            if trainer.strategy.reduce_boolean_decision(bool(reasons), all=False):
                trainer.should_stop = True
                self.stopped_by = self.stopped_by or next(iter(reasons), None)

    def _begin(self, trainer: Trainer, name: str, evidence: str) -> None:
        iteration, step, remedy = trainer.current_epoch + 1, trainer.global_step, self.alarms[name].remedy
        message = f"{evidence}: {self.alarms[name].meaning}"
        self.begun[name] = {
            "name": name,
            "iteration": iteration,
            "step": step,
            "message": message,
            "remedy": remedy,
        }
        if trainer.is_global_zero:
            when = f"iteration {iteration}" if self._in_ppo() else f"step {step}"
            stops = "; the run stops here" if name in self.stop_on else ""
            log.warning("alarm %s, %s: %s (%s)%s", name, when, message, remedy, stops)

    def state_dict(self) -> dict[str, object]:
        """Returns the history and the alarms that have rung."""
        state = {"history": self.history, "begun": self.begun, "rang": sorted(self.rang)}
        return state | {"skipped": self.skipped.total}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the history and the alarms."""
        self.history, self.begun, self.rang = state_dict["history"], state_dict["begun"], set(state_dict["rang"])
        self.skipped.total = state_dict.get("skipped", 0)


def _logged(trainer: Trainer, prefix: str) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
