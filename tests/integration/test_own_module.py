"""A module of a user that derives from `StageModule` is watched, checked and exported like those of the package."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from support import trainer
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from lightning_rlhf import ModelSource, Optim, Renderer, SFTDataModule, StageModule, load_causal_lm
from lightning_rlhf.callbacks import EMA, AdapterCheck, Export, Health, SamplePreview, StartChecks, StepMetrics
from lightning_rlhf.data.batches import SFTBatch
from lightning_rlhf.models.forward import label_logprobs
from lightning_rlhf.modules.optim import configure, undo_averaging


class Smoothed(StageModule):
    """Learns answers, with a loss of its own: that of a quarter of the tokens counts twice."""

    net: PreTrainedModel

    def __init__(self, source: ModelSource, renderer: Renderer) -> None:
        super().__init__()
        self.source, self.renderer = source, renderer

    def configure_model(self) -> None:
        if not hasattr(self, "net"):
            self.net = load_causal_lm(self.source)

    def export_nets(self) -> dict[str, torch.nn.Module]:
        return {"model": self.net}

    def training_step(self, batch: SFTBatch, batch_idx: int) -> Tensor:
        logprobs = label_logprobs(self.net, *batch[:3])
        loss = -(logprobs.sum() + logprobs[::4].sum()) / batch.num_tokens
        self.log_share({"loss": loss})
        return loss * undo_averaging(self.trainer)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return configure(self, Optim(), {"model": (self.net, 1e-3)})


def test_callbacks_and_checks_treat_it_like_a_module_of_the_package(
    data: dict[str, str], source: ModelSource, renderer: Renderer, tmp_path: Path
) -> None:
    rows = SFTDataModule(data["demonstrations"], renderer, minibatch_size=8, val_fraction=0.1)
    health, checks = Health(), StartChecks()
    kept: list[Any] = [StepMetrics(), health, checks, AdapterCheck(), SamplePreview(), Export("sft"), EMA("sft")]
    logger = CSVLogger(tmp_path, name="", version="")
    settings = {"log_every_n_steps": 1, "accumulate_grad_batches": 2, "limit_train_batches": 8}
    module = Smoothed(source, renderer)
    trainer(tmp_path, *kept, logger=logger, **settings).fit(module, rows)
    with (tmp_path / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert health.history["step/loss"] == pytest.approx(losses)
    assert {finding.status for finding in checks.findings.values()} == {"ok"}
    for folder in ("model", "model_ema"):
        exported = AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        assert exported.num_parameters() == module.net.num_parameters()


def test_a_module_without_models_to_export_is_named(renderer: Renderer) -> None:
    with pytest.raises(NotImplementedError, match="StageModule has no export_nets, which an export needs"):
        StageModule().export_nets()
