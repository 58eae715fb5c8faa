"""Writes what an export tells about itself: a manifest for programs, and a model card for people."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lightning_rlhf.models.model_card import FOLDER, model_card
from lightning_rlhf.models.names import named_from
from lightning_rlhf.models.training_record import MANIFEST, TrainingRecord
from lightning_rlhf.models.usage import Usage
from lightning_rlhf.saving import strict_json


@dataclass(frozen=True, kw_only=True)
class Description:
    """What an export and the adapter beside it tell about themselves."""

    manifest: Mapping[str, object]
    """The entries of the manifest. `training` holds the records of the stages; other known entries are `ema_decay`,
    `checkpoint` and `score_bias`."""
    base: str | None
    """Hub name or folder of the model with which the last stage began; None if its weights were random."""
    usage: Usage
    adapter_bias: float = 0.0
    """The bias of a reward model, none of which is in the weights of its adapter."""
    sampled: bool
    """Whether the generation settings are those of the training."""
    scores_texts: bool = True
    """Whether the texts of conversations have the ids that a reward model reads."""
    pads: bool = True
    """Whether a padding token is named, without which a reward model in transformers takes one text at a time."""

    def write(self, partial: Path, folder: Path) -> None:
        """Writes the manifest and the card of a whole model.

        Args:
            partial: The folder to write into.
            folder: The path that it will have.
        """
        self._write(partial, folder, adapter=False)

    def write_for_adapter(self, partial: Path, folder: Path) -> None:
        """Writes the manifest and the card of an adapter; see `write`."""
        self._write(partial, folder, adapter=True)

    def _write(self, partial: Path, folder: Path, *, adapter: bool) -> None:
        base = None if self.base is None else named_from(self.base, folder)
        usage = replace(self.usage, score_bias=self.adapter_bias) if adapter else self.usage
        about = {**self.manifest, "base_model": base, "usage": asdict(usage)}
        (partial / MANIFEST).write_text(strict_json(about, indent=2) + "\n", encoding="utf-8")
        lines = (
            usage.of_adapter(FOLDER, base or "path/to/its/base/model", relative=_is_folder(self.base))
            if adapter
            else usage.of_model(FOLDER)
        )
        training: Any = self.manifest.get("training", [])
        records: Sequence[TrainingRecord] = training
        card = model_card(
            base=self.base,
            training=records,
            lines=lines,
            reward_model=self.usage.reward_model,
            adapter=adapter,
            sampled=self.sampled,
            notes=self._notes(adapter),
        )
        (partial / "README.md").write_text(card, encoding="utf-8")

    def _notes(self, adapter: bool) -> list[str]:
        about, notes = self.manifest, []
        if (decay := about.get("ema_decay")) is not None:
            notes.append(
                f"The weights are a moving average with a decay of {decay} for each step. The metrics below are those "
                "of the last weights, not of the average."
            )
        if adapter and self.base is None:
            notes.append("Its base model had random weights and was not saved. Use the merged model instead.")
        if (checkpoint := about.get("checkpoint")) is not None:
            notes.append(f"The weights are those of the checkpoint `{checkpoint}`.")
        if self.usage.reward_model and not self.scores_texts:
            notes.append(
                "Its tokenizer joins tokens across the ends of turns, so a text is not read as in training. "
                "`lightning-rlhf serve-reward` gives the scores of the training."
            )
        if self.usage.score_bias and not adapter:
            notes.append(
                "transformers leaves out a constant of its score, which `config.json` names as `score_bias`; the lines "
                "below add it."
            )
        if self.usage.reward_model and not self.pads:
            notes.append("Its padding token also ends answers, so score one text at a time in transformers.")
        return notes


def _is_folder(name: str | None) -> bool:
    return name is not None and Path(name).is_dir()
