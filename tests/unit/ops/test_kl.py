"""The KL estimators against the exact divergence, and the adaptive weight against worked numbers."""

from math import exp

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_rlhf.ops.kl import adaptive_kl_coef, kl_estimates

ACTOR = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
REFERENCE = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


def exact_kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum()


def test_the_estimates_of_one_token() -> None:
    # d = -1 - (-1.5) = 0.5: k1 = d, k2 = d²/2 = 0.125, k3 = exp(-0.5) - 1 + 0.5 = 0.1065...
    kl = kl_estimates(torch.tensor([[-1.0]]), torch.tensor([[-1.5]]))
    assert_close(torch.cat(kl), torch.tensor([[0.5], [0.125], [exp(-0.5) - 0.5]]))


def test_k1_and_k3_are_unbiased() -> None:
    # The expectation over the actor's tokens is a sum over the four of them: no sampling noise.
    kl = kl_estimates(ACTOR.log(), REFERENCE.log())
    assert_close((ACTOR * kl.k1).sum(), exact_kl(ACTOR, REFERENCE))
    assert_close((ACTOR * kl.k3).sum(), exact_kl(ACTOR, REFERENCE))


def test_k2_approaches_the_divergence_for_near_distributions() -> None:
    def relative_bias(step: float) -> float:
        near = ACTOR + step * (REFERENCE - ACTOR)
        exact = exact_kl(ACTOR, near)
        return float(((ACTOR * kl_estimates(ACTOR.log(), near.log()).k2).sum() - exact).abs() / exact)

    # The bias is of third order and the divergence of second: so a tenth of the step has a tenth of the relative bias.
    assert relative_bias(0.001) == pytest.approx(relative_bias(0.01) / 10, rel=0.1)


def test_k3_is_never_negative_where_k1_is() -> None:
    kl = kl_estimates(ACTOR.log(), REFERENCE.log())
    assert (kl.k1 < 0).any()
    assert (kl.k3 >= 0).all()


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.15),  # on target
        (6.6, 0.15 * (1 + 0.1 * 0.0512)),  # 10 % above it: error 0.1, times 512 / 10000
        (5.4, 0.15 * (1 - 0.1 * 0.0512)),
        (7.2, 0.15 * 1.01024),  # 20 % above it, where the clip begins: 1 + 0.2 · 0.0512
        (60.0, 0.15 * 1.01024),  # clipped
        (0.0, 0.15 * 0.98976),
    ],
)
def test_the_weight_moves_with_the_clipped_relative_error(kl: float, expected: float) -> None:
    coef = adaptive_kl_coef(0.15, kl, target=6.0, horizon=10_000, num_episodes=512)
    assert coef == pytest.approx(expected, rel=1e-12)
