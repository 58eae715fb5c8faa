"""Adam in one pass over the weights, and in the form with which OpenAI's first RLHF code was tuned."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import ParamsT


def fuse(optimizer: torch.optim.Optimizer) -> None:
    """Makes PyTorch's Adam update each weight in a single pass over its memory, with the same numbers up to rounding.

    By default PyTorch runs an operator for each term of the formula, over one weight at a time on a CPU and over copies
    of all weights on a GPU. A `fused` or `foreach` that the user has set stays as it is. The setting is made after the
    optimizer, because an optimizer that is made with it refuses gradient clipping in mixed precision: it would take the
    loss scale off the gradients in its step, which is too late. Here the trainer takes it off before.

    Args:
        optimizer: Any optimizer; others than PyTorch's Adam and AdamW, and their subclasses, stay as they are.
    """
    if not isinstance(optimizer, torch.optim.Adam):
        return
    for group in optimizer.param_groups:
        if group["fused"] is None and group["foreach"] is None:
            group["fused"] = all(weight.is_floating_point() for weight in group["params"])


class AdamTF(torch.optim.AdamW):
    """AdamW as TensorFlow computes it: epsilon does not shrink with the bias correction of the second moment.

    If m and v are the running averages of the gradient and of its square, without bias correction, a step is

        PyTorch     lr / (1 - beta1^t) · m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
        TensorFlow  lr · sqrt(1 - beta2^t) / (1 - beta1^t) · m / (sqrt(v) + epsilon)

    TensorFlow's form is PyTorch's with epsilon / sqrt(1 - beta2^t) in place of epsilon. At the first step that is 32
    times epsilon, so weights with tiny gradients start slowly. Huang et al., "The N Implementation Details of RLHF with
    PPO" (2023), compared the two early in PPO with GPT-2: the approximate KL was 0.00038 with TensorFlow's form, and
    0.0024 with PyTorch's.

    Source: Kingma and Ba, "Adam" (2015), end of section 2, which calls this epsilon "epsilon hat".
    """

    def __init__(self, params: ParamsT, lr: float = 1e-3, *, eps: float = 1e-5, **settings: Any) -> None:
        """Accepts the arguments of `torch.optim.AdamW`.

        Args:
            params: Parameters, or parameter groups.
            lr: Learning rate of groups that have no learning rate of their own.
            eps: Epsilon of TensorFlow's form.
            **settings: Other arguments, such as `betas` and `weight_decay`.
        """
        super().__init__(params, lr, eps=eps, **settings)
        self.epsilon_hat = eps

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Takes a step.

        Args:
            closure: Function that computes the loss again, if there is one.

        Returns:
            The result of the closure.
        """
        for group in self.param_groups:
            # Steps are counted in the group, so that checkpoints contain the count.
            group["num_steps"] = group.get("num_steps", 0) + 1
            group["eps"] = self.epsilon_hat / (1 - group["betas"][1] ** group["num_steps"]) ** 0.5
        return super().step(closure)
