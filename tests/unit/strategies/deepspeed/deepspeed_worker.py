"""Two fits with DeepSpeed in two processes, ZeRO 3 and then ZeRO 2, which write FOLDER/seen_RANK.json.

python tests/unit/strategies/deepspeed/deepspeed_worker.py FOLDER
"""

import gc
import json
import sys
import weakref
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

from lightning_rlhf.distributed.loading import loading, writable
from lightning_rlhf.distributed.phases import full_state_dict, num_parameters, release, rollout_phase, whole
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.forward import label_logprobs
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.modules.optim import Optim, configure
from lightning_rlhf.strategies.deepspeed.strategy import DeepSpeedStrategy
from lightning_rlhf.strategies.deepspeed.zero3 import is_spread

SOURCE = ModelSource(
    config={
        "model_type": "llama",
        "vocab_size": 33,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "tie_word_embeddings": True,
    },
    tokenizer="none",
)
IDS = torch.arange(8 * 12).reshape(8, 12) * 7 % 33
MASK = torch.ones_like(IDS, dtype=torch.bool)


class Module(pl.LightningModule):
    """Trains a model that is loaded, beside a frozen one with random weights; one weight has no dimensions."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def configure_model(self) -> None:
        with loading():
            self.net = AutoModelForCausalLM.from_pretrained(self.folder / "start")
        self.spread_at_once = all(map(is_spread, self.net.parameters()))
        with writable(self.net.model.norm.weight):
            self.net.model.norm.weight.data.fill_(1.5)
        self.frozen = load_causal_lm(SOURCE).requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return -label_logprobs(self.net, batch, torch.ones_like(batch, dtype=torch.bool), batch > 0).mean() * self.scale

    def train_dataloader(self) -> Any:
        return DataLoader(IDS, batch_size=2)

    def configure_optimizers(self) -> Any:
        chosen = configure(self, Optim(), {"net": (self, 1e-3)})
        self.decays = {g["weight_decay"]: len(g["params"]) for g in chosen["optimizer"].param_groups}
        return chosen

    def unchanged(self) -> tuple[str, ...]:
        return ("frozen.",)


class Watch(pl.Callback):
    """Does around the first step what a rollout does."""

    def __init__(self, start: dict[str, Tensor]) -> None:
        self.start, self.seen = start, {}

    def on_train_start(self, trainer: Any, module: Any) -> None:
        state = full_state_dict(trainer, module.net)
        self.seen |= {
            "spread_at_once": module.spread_at_once,
            "decayed": module.decays[0.01],
            "parameters": [num_parameters(trainer, module), num_parameters(trainer, module, trained=True)],
            "state": sorted(state),
            "like_start": all(
                torch.equal(state[n], w) for n, w in self.start.items() if state and n != "model.norm.weight"
            ),
            "written": state["model.norm.weight"].tolist() if state else None,
        }
        plain = AutoModelForCausalLM.from_pretrained(module.folder / "start").eval()
        plain.model.norm.weight.data.fill_(1.5)
        with torch.no_grad():
            expected, reference = plain(IDS).logits, load_causal_lm(SOURCE).eval()(IDS).logits
        with rollout_phase(trainer, module, generator=module.net):
            # Each rank samples another number of tokens.
            got = [module.net(IDS).logits for _ in range(1 + 3 * trainer.global_rank)]
            self.seen["stays_whole"] = all(p.numel() > 0 for p in module.net.parameters())
            by_layers = module.frozen(IDS).logits
        self.seen["whole_differs"] = max(float((logits - expected).abs().max()) for logits in got)
        self.seen["layers_differ"] = float((by_layers - reference).abs().max())
        with whole(trainer, module, write=True), torch.no_grad():
            module.net.model.norm.weight += 5
            module.frozen.model.norm.weight += 5

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        state = full_state_dict(trainer, module)
        if state and batch_idx == 1:
            self.seen["after_steps"] = [state[f"{net}.model.norm.weight"].tolist() for net in ("net", "frozen")]


def fit(folder: Path, name: str, strategy: DeepSpeedStrategy, **settings: Any) -> tuple[pl.Trainer, dict[str, Any]]:
    start = AutoModelForCausalLM.from_pretrained(folder / "start").state_dict()
    watch = Watch(start)
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, **settings}
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_epochs=1,
        callbacks=[watch],
        enable_checkpointing=False,
        **options,
    )
    trainer.fit(Module(folder))
    trainer.save_checkpoint(folder / f"{name}.ckpt")
    trainer.save_checkpoint(folder / f"{name}.ckpt")
    (norm,) = (strategy.last_grad_norms() or {}).values()
    watch.seen["norm"] = float(norm)
    return trainer, watch.seen


def main(folder: Path) -> None:
    first = DeepSpeedStrategy(stage=3, zero={"param_persistence_threshold": 0})
    trainer, zero3 = fit(folder, "zero3", first)
    share = weakref.ref(first.deepspeed_engine.optimizer.fp32_partitioned_groups_flat[0])
    release(trainer)
    second, zero2 = fit(folder, "zero2", DeepSpeedStrategy(stage=2), accumulate_grad_batches=2)
    gc.collect()
    seen = {"zero3": zero3, "zero2": zero2, "freed": share() is None}
    (folder / f"seen_{second.global_rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
