"""Adam in TensorFlow's form, compared with its formula."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_rlhf.modules.adam import AdamTF

LR, BETA1, BETA2, EPSILON = 0.1, 0.9, 0.99, 1e-3
# Gradients that are far above, near and far below epsilon.
GRADIENTS = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)).double() * torch.tensor(
    [1, 1e-2, 1e-3, 1e-5]
)


def by_formula(gradients: Tensor) -> Tensor:
    """Computes a weight that began at 0, by lr · sqrt(1 - beta2^t) / (1 - beta1^t) · m / (sqrt(v) + epsilon)."""
    weight = m = v = torch.zeros(4, dtype=torch.float64)
    for t, gradient in enumerate(gradients, 1):
        m = BETA1 * m + (1 - BETA1) * gradient
        v = BETA2 * v + (1 - BETA2) * gradient**2
        weight = weight - LR * (1 - BETA2**t) ** 0.5 / (1 - BETA1**t) * m / (v.sqrt() + EPSILON)
    return weight


def make() -> tuple[torch.nn.Parameter, AdamTF]:
    weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    group = {"params": [weight], "lr": LR}
    return weight, AdamTF([group], lr=0.0, betas=(BETA1, BETA2), eps=EPSILON, weight_decay=0.0)


def take_steps(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer, gradients: Tensor) -> None:
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()


@pytest.mark.parametrize("num_steps", [1, 2, 12])
def test_steps_are_those_of_the_formula(num_steps: int) -> None:
    weight, optimizer = make()
    take_steps(weight, optimizer, GRADIENTS[:num_steps])
    assert_close(weight.detach(), by_formula(GRADIENTS[:num_steps]))


def test_the_first_step_on_a_gradient_like_epsilon_is_shorter_than_in_the_form_of_torch() -> None:
    # In both m = 0.1 g and sqrt(v) = 0.1 |g|. torch: lr · g / (|g| + epsilon) = lr / 2.
    # TensorFlow: lr · 0.1 / 0.1 · 0.1 g / (0.1 |g| + epsilon) = lr / (1 + 10) = lr / 11.
    weight, optimizer = make()
    plain = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    gradient = torch.full((1, 4), EPSILON, dtype=torch.float64)
    take_steps(weight, optimizer, gradient)
    take_steps(plain, torch.optim.Adam([plain], LR, (BETA1, BETA2), EPSILON), gradient)
    assert_close(weight.detach(), torch.full((4,), -LR / 11, dtype=torch.float64))
    assert_close(plain.detach(), torch.full((4,), -LR / 2, dtype=torch.float64))


def test_a_restored_optimizer_goes_on_as_if_it_had_not_stopped() -> None:
    weight, optimizer = make()
    take_steps(weight, optimizer, GRADIENTS[:3])
    resumed, other = make()
    resumed.data.copy_(weight.detach())
    other.load_state_dict(optimizer.state_dict())
    take_steps(resumed, other, GRADIENTS[3:])
    assert_close(resumed.detach(), by_formula(GRADIENTS))
