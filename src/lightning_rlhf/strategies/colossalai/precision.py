"""The precision plugin of ColossalAI, which casts, scales and clips by itself; Lightning must not do so again."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import Precision
from torch import Tensor
from torch.optim import Optimizer

from lightning_rlhf.distributed.gradient_norms import role_of
from lightning_rlhf.errors import UserError
from lightning_rlhf.strategies.colossalai.engine import Engine

DTYPES = {
    "32-true": torch.float32,
    "bf16-mixed": torch.bfloat16,
    "bf16-true": torch.bfloat16,
    "16-mixed": torch.float16,
}
"""The dtype of weights in computations, by `trainer.precision`; the optimizer always has fp32 master weights."""


class ColossalAIPrecision(Precision):
    """Passes backward passes and steps on to the boosted optimizer, as `DeepSpeedPrecision` does to its engine."""

    precision: Any = "32-true"

    def __init__(self) -> None:
        """Starts without an engine; the strategy sets the engine and `precision` during its setup."""
        super().__init__()
        self.engine: Engine | None = None
        self.last_norms: dict[str, Tensor] | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights that compute."""
        return DTYPES[self.precision]

    @property
    def scaler(self) -> Any:
        """ColossalAI's loss scaler under fp16; None otherwise."""
        return getattr(self.engine.mixin, "grad_scaler", None) if self.engine else None

    def backward(  # type: ignore[override]
        self, tensor: Tensor, model: LightningModule, optimizer: object, *_: object, **__: object
    ) -> None:
        """Computes gradients and reduces them over the processes; scales the loss under fp16."""
        assert self.engine is not None
        self.engine.backward(tensor)

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Optimizer, model: LightningModule, closure: Callable[[], Tensor | None], **settings: object
    ) -> Tensor | None:
        """Computes the gradients and takes a step.

        Raises:
            UserError: If the training step returned no loss; the other processes would wait for its gradients.
        """
        assert self.engine is not None
        loss = closure()
        self._after_closure(model, optimizer)
        if loss is None and model.automatic_optimization:
            raise UserError("ColossalAIStrategy: training_step returned None; it has to return a loss on every process")
        boosted, scale = self.engine.optimizer, self.scaler.scale.clone() if self.scaler else 1.0
        boosted.step()
        # Lightning only knows the inner optimizer, whose zero_grad does not reach the gradients.
        boosted.zero_grad()
        if self.scaler and self.engine.mixin.found_overflow.item():
            # ColossalAI skips such a step.
            infinite = torch.full((), float("inf"), device=model.device)
            self.last_norms = {role_of(group): infinite for group in optimizer.param_groups}
        else:
            self.last_norms = {role: (norm / scale).squeeze() for role, norm in self.engine.clipping.norms.items()}
        return loss

    def clip_gradients(self, *_: object, **__: object) -> None:
        """Does nothing, because the boosted optimizer clips in its step."""

    def state_dict(self) -> dict[str, object]:
        """Returns the state of the loss scaler."""
        return self.scaler.state_dict() if self.scaler else {}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Restores the loss scaler from a checkpoint."""
        if self.scaler:
            self.scaler.load_state_dict(state_dict)
