"""Adam in the form that OpenAI's first RLHF code was tuned with."""

from collections.abc import Callable
from typing import Any

import torch


class AdamTF(torch.optim.AdamW):
    """AdamW as TensorFlow computes it: epsilon does not shrink with the bias correction of the second moment.

    With m and v the averages of the gradient and of its square, both not corrected, a step is

        PyTorch     lr / (1 - beta1^t) · m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
        TensorFlow  lr · sqrt(1 - beta2^t) / (1 - beta1^t) · m / (sqrt(v) + epsilon)

    The second is the first with epsilon / sqrt(1 - beta2^t): at the first step 32 times the epsilon, so that weights
    with tiny gradients begin slowly. Huang et al., "The N Implementation Details of RLHF with PPO" (2023), compared the
    two early in PPO with GPT-2: an approximate KL of 0.00038 in this form, and of 0.0024 in PyTorch's.

    Source: Kingma and Ba, "Adam" (2015), end of section 2, where this epsilon is called epsilon hat.
    """

    def __init__(self, params: Any, lr: float = 1e-3, *, eps: float = 1e-5, **settings: Any) -> None:
        """Takes what `torch.optim.AdamW` takes.

        Args:
            params: Parameters or groups of them.
            lr: Learning rate of groups that carry none.
            eps: Epsilon of TensorFlow's form.
            **settings: Such as `betas` and `weight_decay`.
        """
        super().__init__(params, lr, eps=eps, **settings)
        self.epsilon_hat = eps

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Takes a step.

        Args:
            closure: Computes the loss again, if given.

        Returns:
            What the closure returned.
        """
        for group in self.param_groups:
            # Counted in the group, so that it is saved with it.
            group["num_steps"] = group.get("num_steps", 0) + 1
            group["eps"] = self.epsilon_hat / (1 - group["betas"][1] ** group["num_steps"]) ** 0.5
        return super().step(closure)
