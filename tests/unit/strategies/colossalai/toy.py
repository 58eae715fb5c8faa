"""A small module for tests of ColossalAI's strategy."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from lightning_rlhf.strategies.colossalai.boost import REQUIREMENTS

installed = pytest.mark.skipif(
    any(find_spec(name) is None for name in REQUIREMENTS), reason="ColossalAI is not installed: make colossalai"
)
BATCHES = torch.randn(8, 4, 5, generator=torch.Generator().manual_seed(0))


class Toy(pl.LightningModule):
    """A model that is trained towards a frozen one, with weights of odd sizes and one without dimensions."""

    def __init__(self, **optimizer: Any) -> None:
        super().__init__()
        self.optimizer = {"lr": 1e-2, **optimizer}

    def configure_model(self) -> None:
        if not hasattr(self, "net"):
            torch.manual_seed(0)
            self.net, self.frozen = nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1)), nn.Linear(5, 1)
            self.net.register_parameter("scale", nn.Parameter(torch.tensor(1.5)))
            self.net.register_buffer("frequencies", torch.tensor([1.001]))
            self.frozen.requires_grad_(False)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        batch = batch.to(self.net[0].weight.dtype)
        error = self.net.scale * self.net(batch) - self.frozen(batch)
        return error.float().square().sum() * 10

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(BATCHES, batch_size=None)

    def configure_optimizers(self) -> Any:
        groups = [{"params": [p for p in self.net.parameters() if (p.ndim > 1) == matrix]} for matrix in (True, False)]
        optimizer = torch.optim.AdamW(groups, **self.optimizer)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in weights.items() if not k.startswith("frozen.")}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] |= {k: v for k, v in self.state_dict().items() if k.startswith("frozen.")}


class Norms(pl.Callback):
    """Records the norm of the gradients, as `Health` asks for it."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.norms += map(float, trainer.strategy.last_grad_norms().values())


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def weights(module: pl.LightningModule) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}
