"""Gemini in one process, on a CPU that ColossalAI takes for a GPU: see tests/equivalence/gemini_on_cpu.py."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from equivalence.gemini_on_cpu import choose_accelerator
from support import Recorder, trainer
from torch import nn
from unit.strategies.colossalai.toy import Norms, Toy, alone, installed, weights

from lightning_rlhf.distributed.phases import full_state_dict
from lightning_rlhf.distributed.weight_stream import on_cpu
from lightning_rlhf.errors import UserError
from lightning_rlhf.strategies.colossalai import cpu as colossalai_cpu
from lightning_rlhf.strategies.colossalai.boost import hybrid_adam, import_colossalai
from lightning_rlhf.strategies.colossalai.strategy import ColossalAIStrategy

__all__ = ["alone"]
pytestmark = [installed, pytest.mark.slow]
# The chunks have 8 numbers, so that the weights are in several of them.
SMALL = {"min_chunk_size_m": 1e-6, "search_range_m": 0, "hidden_dim": 8}
PLUGIN = {"pin_memory": False, "enable_async_reduce": False}


@pytest.fixture(autouse=True)
def _seemingly_on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import_colossalai()
    from colossalai.accelerator import api
    from colossalai.kernel.kernel_loader import CPUAdamLoader

    # `choose_accelerator` replaces both, but later tests in this process need ColossalAI's own.
    monkeypatch.setattr(api, "_ACCELERATOR", api._ACCELERATOR)
    monkeypatch.setattr(CPUAdamLoader, "REGISTRY", CPUAdamLoader.REGISTRY)
    monkeypatch.setattr(colossalai_cpu, "choose_accelerator", choose_accelerator)


class HybridToy(Toy):
    """The same module, with the optimizer that Gemini accepts."""

    def configure_optimizers(self) -> Any:
        configured = super().configure_optimizers()
        groups = configured["optimizer"].param_groups
        optimizer = hybrid_adam(
            [{"params": g["params"]} for g in groups], lr=1e-2, weight_decay=0.01, betas=[0.9, 0.999]
        )
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def gemini(placement: Any = "cuda", **plugin: Any) -> ColossalAIStrategy:
    return ColossalAIStrategy(3, placement, plugin={**PLUGIN, **SMALL, **plugin})


def fit(
    module: pl.LightningModule, folder: Path, strategy: Any, *callbacks: pl.Callback, **settings: Any
) -> list[float]:
    recorder = Recorder()
    path = settings.pop("ckpt_path", None)
    fixed = {"precision": "bf16-mixed", "gradient_clip_val": 5.0, "max_epochs": 2, "use_distributed_sampler": False}
    trainer(folder, recorder, *callbacks, strategy=strategy, **{**fixed, **settings}).fit(module, ckpt_path=path)
    return recorder.losses


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("settings", [{}, {"placement": "cpu"}, {"placement": "auto"}, {"min_chunk_size_m": 32}])
def test_gemini_trains_as_zero_does(settings: dict[str, Any], precision: str, tmp_path: Path) -> None:
    expected, same = Norms(), Norms()
    losses = fit(Toy(), tmp_path, ColossalAIStrategy(2), expected, precision=precision)
    assert fit(HybridToy(), tmp_path, gemini(**settings), same, precision=precision) == pytest.approx(losses, rel=0.02)
    assert same.norms == pytest.approx(expected.norms, rel=0.02)
    assert max(same.norms) > 5


def test_gemini_accumulates(tmp_path: Path) -> None:
    losses = fit(Toy(), tmp_path, ColossalAIStrategy(2), accumulate_grad_batches=2)
    assert fit(HybridToy(), tmp_path, gemini(), accumulate_grad_batches=2) == pytest.approx(losses, rel=0.02)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_goes_on_from_its_checkpoint_to_the_same_weights(accumulate: int, tmp_path: Path) -> None:
    settings = {"accumulate_grad_batches": accumulate, "enable_checkpointing": True}
    whole = pl.callbacks.ModelCheckpoint(tmp_path, filename="whole")
    losses = fit(HybridToy(), tmp_path, gemini(), whole, max_epochs=3, **settings)
    first = pl.callbacks.ModelCheckpoint(tmp_path, filename="first")
    fit(HybridToy(), tmp_path, gemini(), first, **settings)
    again = pl.callbacks.ModelCheckpoint(tmp_path, filename="again")
    path = str(tmp_path / "first.ckpt")
    assert fit(HybridToy(), tmp_path, gemini(), again, max_epochs=3, ckpt_path=path, **settings) == losses[-8:]
    read = [torch.load(tmp_path / f"{name}.ckpt" / "weights.pt") for name in ("whole", "again")]
    torch.testing.assert_close(read[0], read[1], rtol=0, atol=0)


class Looks(pl.Callback):
    """Calls the model before the first training step, between steps, and at the end, when it also exports."""

    def __init__(self) -> None:
        self.outputs: list[torch.Tensor] = []
        self.before: dict[str, torch.Tensor] = {}
        self.after: dict[str, torch.Tensor] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        row = torch.ones(1, 5, dtype=torch.bfloat16)
        with torch.no_grad(), trainer.strategy.rollout():
            layerwise = pl_module.net(row)
            with trainer.strategy.whole(pl_module.net[0], write=False):
                # The second call is needed because the first one gathers what is not held.
                partly = [pl_module.net(row) for _ in range(2)][1]
        with torch.no_grad(), trainer.strategy.whole(pl_module, write=False):
            whole = pl_module.net(row)
        self.outputs += [layerwise, partly, whole]

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.before = full_state_dict(trainer, pl_module.net)
        factor = self.outputs[-1].abs() * 0 + 2
        with torch.no_grad(), trainer.strategy.whole(pl_module.net, write=True):
            pl_module.net[2].weight.mul_(factor)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.after = full_state_dict(trainer, pl_module.net)


def test_nets_are_called_and_written_outside_training_steps(tmp_path: Path) -> None:
    looks = Looks()
    losses = fit(HybridToy(), tmp_path, gemini(), looks)
    assert losses == fit(HybridToy(), tmp_path, gemini())
    assert {type(output) for output in looks.outputs} == {torch.Tensor}
    for layerwise, partly, whole in zip(*[iter(looks.outputs)] * 3, strict=True):
        assert layerwise == partly == whole
    assert len(set(map(float, looks.outputs))) > 8
    written = {"2.weight"}
    for name, weight in looks.after.items():
        expected = 2 * looks.before[name].bfloat16().float() if name in written else looks.before[name]
        assert torch.equal(weight, expected), name


def test_frozen_weights_and_the_digits_of_buffers_and_masters_are_kept(tmp_path: Path) -> None:
    module = HybridToy()
    module.configure_model()
    before, strategy = weights(module), gemini()
    fit(module, tmp_path, strategy, max_steps=1)
    after = on_cpu(strategy.named_weights(module), keep=True)
    assert after["net.frequencies"] == before["net.frequencies"]
    assert torch.equal(after["frozen.weight"], before["frozen.weight"].bfloat16())
    # A step of Adam is as long as the learning rate, whatever 16 bits can represent.
    steps = (after["net.0.weight"] - before["net.0.weight"]).abs()
    assert steps.max() == pytest.approx(0.01, rel=0.05)


def test_what_gemini_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="optimizer is AdamW, and Gemini .* set optim=hybrid_adam"):
        fit(Toy(), tmp_path, gemini())
    module = HybridToy()
    fit(module, tmp_path, gemini(), max_epochs=1)
    with pytest.raises(UserError, match="Gemini has divided this module's weights"):
        fit(module, tmp_path, ColossalAIStrategy(2))
    assert isinstance(module.net, nn.Module)


def test_gemini_gives_back_what_belongs_to_the_process(tmp_path: Path) -> None:
    from colossalai.zero.gemini.gemini_mgr import GeminiManager

    run = partial(fit, HybridToy(), tmp_path, gemini("auto"))
    run()
    assert GeminiManager._get_layout_info.cache_info().currsize == 0
