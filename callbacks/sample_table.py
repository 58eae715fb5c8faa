"""Stores samples for people to read."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Rollout
from lightning_rlhf.hooks import RLHFCallback
from lightning_rlhf.rollout.texts import finish_reason


class SampleTable(RLHFCallback):
    """Appends samples to `samples.jsonl` in the run folder; logs them as a table where a logger has tables (W&B)."""

    def __init__(self, every: int = 5, num_rows: int = 16) -> None:
        """Stores how many samples to keep.

        Args:
            every: The interval of rollouts whose samples are kept; answers to held-out prompts are always kept.
            num_rows: The number of samples to keep of a rollout.

        Raises:
            UserError: If one of them is not positive.
        """
        if every < 1 or num_rows < 1:
            raise UserError(f"sample table: every={every} and num_rows={num_rows} must be at least 1")
        self.every, self.num_rows = every, num_rows
        self.file: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Removes the samples of an earlier run in this folder."""
        if trainer.is_global_zero:
            self.file = Path(trainer.default_root_dir) / "samples.jsonl"
            self.file.unlink(missing_ok=True)

    def state_dict(self) -> dict[str, object]:
        """Returns the samples so far; a resumed run starts with them."""
        return {"samples": self.file.read_text(encoding="utf-8") if self.file and self.file.is_file() else ""}

    def load_state_dict(self, state_dict: dict[str, str]) -> None:
        """Writes the samples of the earlier run."""
        if self.file and state_dict["samples"]:
            self.file.write_text(state_dict["samples"], encoding="utf-8")

    def on_rollout_end(self, trainer: Trainer, module: LightningModule, rollout: Rollout) -> None:
        """Stores the first samples of the rollout."""
        if rollout.iteration % self.every:
            return
        lengths = rollout.experience.sequences.response_mask.sum(1)
        rows = [
            {
                "prompt": rollout.prompts[i],
                "response": rollout.responses[i],
                "score": float(rollout.scores[i]),
                "kl": float(rollout.kl[i]),
                "length": int(lengths[i]),
                "finish_reason": finish_reason(rollout.finished[i]),
                "weights_version": int(rollout.experience.weights_version[i]),
            }
            for i in range(min(self.num_rows, len(rollout.prompts)))
        ]
        self._write(trainer, "rollout", rollout.iteration + 1, rows)

    def on_evaluation_end(
        self, trainer: Trainer, module: LightningModule, iteration: int, samples: list[dict[str, Any]]
    ) -> None:
        """Stores all answers."""
        self._write(trainer, "evaluation", iteration, samples)

    def _write(self, trainer: Trainer, phase: str, iteration: int, rows: list[dict[str, Any]]) -> None:
        if self.file is None:
            return
        with self.file.open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps({"iteration": iteration, "phase": phase} | row, ensure_ascii=False) + "\n")
        columns = list(dict.fromkeys(name for row in rows for name in row))
        data = [[row.get(name) for name in columns] for row in rows]
        for logger in trainer.loggers:
            if hasattr(logger, "log_table"):
                logger.log_table(f"samples/{phase}", columns=columns, data=data, step=trainer.global_step)
