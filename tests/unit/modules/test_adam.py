"""Adam in TensorFlow's form and in a single pass, compared with its formula."""

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_rlhf.modules.adam import AdamTF, fuse

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


def take_steps(weights: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, gradients: Tensor) -> None:
    for gradient in gradients:
        for weight in weights:
            weight.grad = gradient.clone()
        optimizer.step()


@pytest.mark.parametrize("num_steps", [1, 2, 12])
def test_steps_are_those_of_the_formula(num_steps: int) -> None:
    weight, optimizer = make()
    take_steps([weight], optimizer, GRADIENTS[:num_steps])
    assert_close(weight.detach(), by_formula(GRADIENTS[:num_steps]))


def test_the_first_step_on_a_gradient_like_epsilon_is_shorter_than_in_the_form_of_torch() -> None:
    # In both m = 0.1 g and sqrt(v) = 0.1 |g|. torch: lr · g / (|g| + epsilon) = lr / 2.
    # TensorFlow: lr · 0.1 / 0.1 · 0.1 g / (0.1 |g| + epsilon) = lr / (1 + 10) = lr / 11.
    weight, optimizer = make()
    plain = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    gradient = torch.full((1, 4), EPSILON, dtype=torch.float64)
    take_steps([weight], optimizer, gradient)
    take_steps([plain], torch.optim.Adam([plain], LR, (BETA1, BETA2), EPSILON), gradient)
    assert_close(weight.detach(), torch.full((4,), -LR / 11, dtype=torch.float64))
    assert_close(plain.detach(), torch.full((4,), -LR / 2, dtype=torch.float64))


def test_a_restored_optimizer_goes_on_as_if_it_had_not_stopped() -> None:
    weight, optimizer = make()
    take_steps([weight], optimizer, GRADIENTS[:3])
    resumed, other = make()
    resumed.data.copy_(weight.detach())
    other.load_state_dict(optimizer.state_dict())
    take_steps([resumed], other, GRADIENTS[3:])
    assert_close(resumed.detach(), by_formula(GRADIENTS))


class Operators(TorchDispatchMode):
    """Counts how often each operator runs."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, AdamTF])
def test_a_fused_step_is_one_operator_with_the_numbers_of_the_formula(kind: type[torch.optim.Adam]) -> None:
    weights = [torch.nn.Parameter(torch.zeros(4, dtype=torch.float64)) for _ in range(4)]
    plain, fused = (
        kind([{"params": pair, "lr": LR, "weight_decay": 0.1}], betas=(BETA1, BETA2), eps=EPSILON)
        for pair in (weights[:2], weights[2:])
    )
    fuse(fused)
    take_steps(weights[:2], plain, GRADIENTS)
    with Operators() as operators:
        take_steps(weights[2:], fused, GRADIENTS)
    assert sum(count for name, count in operators.counts.items() if "adam" in name) == len(GRADIENTS)
    assert operators.counts["lerp_"] == operators.counts["addcdiv_"] == 0
    assert_close(weights[2:], weights[:2])


@pytest.mark.parametrize("settings", [{"fused": False}, {"foreach": True}, {"foreach": False}])
def test_a_user_may_choose_how_adam_steps(settings: dict[str, bool]) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(4))], **settings)
    fuse(optimizer)
    assert {name: optimizer.param_groups[0][name] for name in settings} == settings
    assert not optimizer.param_groups[0]["fused"]


def test_a_fused_adam_lets_mixed_precision_clip_gradients() -> None:
    # Lightning refuses to clip for optimizers that have this mark; PyTorch sets it if it makes a fused optimizer.
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(4))])
    fuse(optimizer)
    assert optimizer.param_groups[0]["fused"]
    assert not getattr(optimizer, "_step_supports_amp_scaling", False)
    assert torch.optim.AdamW([torch.nn.Parameter(torch.zeros(4))], fused=True)._step_supports_amp_scaling


def test_other_optimizers_stay_as_they_are() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(4))], lr=LR)
    before = copy.deepcopy(optimizer.param_groups[0])
    fuse(optimizer)
    assert str(optimizer.param_groups[0]) == str(before)
