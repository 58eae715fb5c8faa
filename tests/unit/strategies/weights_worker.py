"""Streams weights under strategies, one fit after the other, and writes the observations to FOLDER/NAME_RANK.json.

    python tests/unit/strategies/weights_worker.py FOLDER NAME …

Each process of a run is started with these arguments and LOCAL_RANK.
"""

import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "equivalence"))

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_rlhf.benchmark.meter import Meter, allocated
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.distributed.phases import full_state_dict, named_weights
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.export import export_model
from lightning_rlhf.models.forward import label_logprobs
from lightning_rlhf.models.scalar import load_scalar_model
from lightning_rlhf.models.source import ModelSource

# A block is 3.2 MB, and GPT-2 ties its embedding, of 0.8 MB, to its head.
SOURCE = ModelSource(
    config={"model_type": "gpt2", "vocab_size": 814, "n_layer": 8, "n_head": 4, "n_embd": 256, "n_positions": 32},
    tokenizer="pkg://lightning_rlhf.demo/tokenizer",
)
SHARD_BYTES = 3_300_000
IDS = torch.arange(2 * 12).reshape(2, 12) * 7 % 814


def fsdp1() -> Any:
    from lightning_rlhf.strategies.fsdp.fsdp1 import FSDPStrategy

    return FSDPStrategy()


def fsdp2() -> Any:
    from lightning_rlhf.strategies.fsdp.fsdp2 import FSDP2Strategy

    return FSDP2Strategy()


def deepspeed(stage: Any) -> Any:
    from lightning_rlhf.strategies.deepspeed.strategy import DeepSpeedStrategy

    # Otherwise small weights would stay whole.
    return DeepSpeedStrategy(stage, zero={"param_persistence_threshold": 0} if stage == 3 else None)


def colossalai(stage: Any) -> Any:
    from lightning_rlhf.strategies.colossalai.strategy import ColossalAIStrategy

    # The chunks have a million numbers.
    small = {"min_chunk_size_m": 1, "search_range_m": 0, "pin_memory": False, "enable_async_reduce": False}
    return ColossalAIStrategy(stage, plugin=small if stage == 3 else None)


STRATEGIES: dict[str, Callable[[], Any]] = {
    "ddp": lambda: "ddp",
    "fsdp": fsdp1,
    "fsdp2": fsdp2,
    "deepspeed_zero1": lambda: deepspeed(1),
    "deepspeed_zero2": lambda: deepspeed(2),
    "deepspeed_zero3": lambda: deepspeed(3),
    "colossalai_zero1": lambda: colossalai(1),
    "colossalai_zero2": lambda: colossalai(2),
    "colossalai_gemini": lambda: colossalai(3),
}


class Module(pl.LightningModule):
    """Trains one model; another one, with a head, is frozen."""

    def configure_model(self) -> None:
        if not hasattr(self, "model"):
            self.model, self.frozen = build()

    def training_step(self, ids: Tensor, batch_idx: int) -> Tensor:
        mask = torch.ones_like(ids, dtype=torch.bool)
        return -label_logprobs(self.model, ids, mask, mask).mean()

    def train_dataloader(self) -> Any:
        return DataLoader([IDS], batch_size=None)  # type: ignore[arg-type]

    def configure_optimizers(self) -> Any:
        if type(self.trainer.strategy).__name__ == "ColossalAIStrategy" and self.trainer.strategy.stage == 3:
            from lightning_rlhf.strategies.colossalai.boost import hybrid_adam

            return hybrid_adam(self.model.parameters(), lr=1e-3)
        return torch.optim.AdamW(self.model.parameters(), 1e-3)


def build() -> tuple[Any, Any]:
    """Builds both models, which are the same in every process."""
    model = load_causal_lm(SOURCE)
    torch.manual_seed(1)
    return model, load_scalar_model(SOURCE, "normal").requires_grad_(False)


class Watch(pl.Callback):
    """Streams the weights before the first step."""

    def __init__(self, strategy: str, first: bool) -> None:
        self.strategy, self.first = strategy, first
        self.renderer = Renderer(SOURCE.load_tokenizer())
        self.seen: dict[str, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        for name, model, expected in zip(("model", "frozen"), (module.model, module.frozen), build(), strict=True):
            self.seen[name] = self.compare(trainer, model, expected.state_dict())
        self.seen["stream"] = peak(lambda: sum(float(weight.sum()) for _, weight in named_weights(trainer, module)))
        self.seen["whole"] = peak(lambda: full_state_dict(trainer, module))
        self.abandon(trainer, module.model)
        for name in ("model", "frozen"):
            self.export(trainer, getattr(module, name), name)

    def compare(self, trainer: pl.Trainer, model: Any, expected: dict[str, Tensor]) -> dict[str, Any]:
        found = {name: weight.cpu().clone() for name, weight in named_weights(trainer, model)}
        state = full_state_dict(trainer, model)
        dtype = next(iter(found.values())).dtype
        # Scalars may be sharded as vectors of one number.
        return {
            "names": list(found) == list(expected),
            "differing": [n for n, w in found.items() if not w.flatten().equal(expected[n].to(dtype).flatten())],
            "state_differs": [n for n, w in state.items() if not w.equal(found[n])],
            "state_names": len(state),
            "plain": {type(weight).__name__ for weight in found.values()} == {"Tensor"},
            "dtype": str(dtype),
        }

    def export(self, trainer: pl.Trainer, model: Any, name: str) -> None:
        """Measures the memory of an export whose largest file is as large as a block."""
        folder = Path(trainer.default_root_dir) / f"{self.strategy}_{name}"

        def work() -> None:
            with named_weights(trainer, model) as weights:
                if trainer.is_global_zero:
                    export_model(model, self.renderer, folder, {}, weights, SHARD_BYTES)

        if self.first:
            # The first export imports modules, whose memory is not that of an export.
            work()
            self.first = False
        self.seen[f"export {name}"] = peak(work)

    def abandon(self, trainer: pl.Trainer, model: Any) -> None:
        """Lets one process end early with an error, after which both can continue."""
        try:
            with named_weights(trainer, model) as weights:
                for _ in weights:
                    if not trainer.is_global_zero:
                        raise OSError("no space left")
        except OSError:
            pass
        self.seen["afterwards"] = sum(1 for _ in named_weights(trainer, model))


def peak(work: Callable[[], Any]) -> float:
    """Returns the largest number of megabytes that are allocated in addition to those before."""
    gc.collect()
    before = allocated()
    with Meter() as meter:
        # The result is freed only after the meter has been read.
        result = work()
        meter.most = max(meter.most, allocated())
    del result
    return (meter.most - before) / 1e6


def main(folder: Path, names: list[str]) -> None:
    for name in names:
        watch = Watch(name, name == names[0])
        if name == "colossalai_gemini":
            import gemini_on_cpu

            from lightning_rlhf.strategies.colossalai import cpu

            cpu.choose_accelerator = gemini_on_cpu.choose_accelerator
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=2,
            strategy=STRATEGIES[name](),
            precision="bf16-mixed" if name == "colossalai_gemini" else "32-true",
            max_epochs=1,
            callbacks=[watch],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=folder,
        )
        trainer.fit(Module())
        (folder / f"{name}_{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(watch.seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
