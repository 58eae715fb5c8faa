"""Stops a run that would learn something other than its user intends, before its first update."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

from lightning_rlhf.checks.finding import Finding
from lightning_rlhf.checks.start import at_first_batch, at_first_loss, at_first_rollout, at_fit_start
from lightning_rlhf.distributed.collectives import gather_objects
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Rollout
from lightning_rlhf.hooks import RLHFCallback

log = logging.getLogger(__name__)
_SEVERITY = ("ok", "warning", "error")


class StartChecks(RLHFCallback):
    """Runs the inexpensive checks of `doctor` when a run starts; a resumed run has passed them already."""

    def __init__(self, fatal: bool = True) -> None:
        """Stores how to treat errors.

        Args:
            fatal: Whether errors stop the run. Otherwise they are only stored in `findings`.
        """
        self.fatal = fatal
        self.findings: dict[str, Finding] = {}

    def state_dict(self) -> dict[str, object]:
        """Returns the findings, which a resumed run does not make again."""
        return {"findings": [finding._asdict() for finding in self.findings.values()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the findings of the stopped run."""
        self.findings = {fields["check"]: Finding(**fields) for fields in state_dict["findings"]}

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Checks rows and models."""
        if trainer.ckpt_path is None:
            self._take(trainer, at_fit_start(trainer, pl_module))

    def on_rollout_end(self, trainer: Trainer, module: Any, rollout: Rollout) -> None:
        """Checks PPO's first rollout."""
        if trainer.global_step == 0:
            self._take(trainer, at_first_rollout(trainer, module, rollout))

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: object, batch_idx: int) -> None:
        """Checks the first batch."""
        if trainer.global_step == batch_idx == 0:
            self._take(trainer, at_first_batch(trainer, pl_module, batch))

    def on_loss(self, trainer: Trainer, module: Any, batch_idx: int, terms: Mapping[str, Tensor]) -> None:
        """Checks PPO's first loss, in each part of the first minibatch."""
        if trainer.global_step == 0:
            self._take(trainer, at_first_loss(trainer, module, float(terms["approx_kl"])))

    def _take(self, trainer: Trainer, findings: Iterable[Finding]) -> None:
        """Stores the worst finding of each check over all ranks, and stops all ranks together."""
        new = gather_objects(list(findings))
        for finding in new:
            kept = self.findings.setdefault(finding.check, finding)
            if _SEVERITY.index(finding.status) > _SEVERITY.index(kept.status):
                self.findings[finding.check] = finding
        if not self.fatal:
            return
        lines = {
            status: list(dict.fromkeys(f"{f.check}: {f.found}; {f.remedy}" for f in new if f.status == status))
            for status in ("warning", "error")
        }
        if lines["error"]:
            raise UserError("\n".join(["stopped before the first update", *lines["error"]]))
        if trainer.is_global_zero:
            for line in lines["warning"]:
                log.warning(line)


def checks_record(trainer: Trainer) -> dict[str, Any]:
    """Returns the entry `checks` of `result.json`: name, status and finding of each check, in order."""
    # `callbacks` is set by the Trainer's connector, which type checkers do not see.
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StartChecks) and callback.findings:
            names = ("check", "status", "found")
            return {"checks": [{name: getattr(f, name) for name in names} for f in callback.findings.values()]}
    return {}
