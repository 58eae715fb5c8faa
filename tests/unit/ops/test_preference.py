"""Losses of direct preference optimization, compared with numbers worked out by hand, and their optima."""

import math
from typing import Any

import pytest
import torch
from torch import tensor

from lightning_rlhf.ops.preference import PREFERENCE_LOSSES, dpo_loss, ipo_loss, log_ratio_margin

# Two pairs have log-ratios 1 and -2 for the chosen answers and -1 and 2 for the rejected ones, so h = 2 and -4.
PAIRS = (tensor([-3.0, -7.0]), tensor([-5.0, -4.0]), tensor([-4.0, -5.0]), tensor([-4.0, -6.0]))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def optimum(loss: str, **settings: Any) -> float:
    """Finds the margin h at which a loss is smallest, by gradient descent with momentum."""
    h = tensor([0.0], requires_grad=True)
    optimizer = torch.optim.SGD([h], lr=0.5, momentum=0.5)
    for _ in range(2000):
        optimizer.zero_grad()
        PREFERENCE_LOSSES[loss](h, 0.0, 0.0, 0.0, **settings).sum().backward()
        optimizer.step()
    return h.item()


def test_the_margin_is_what_the_policy_prefers_beyond_the_reference() -> None:
    assert log_ratio_margin(*PAIRS).tolist() == [2, -4]


def test_dpo_is_the_logistic_loss_of_beta_times_the_margin() -> None:
    expected = [-math.log(sigmoid(0.5 * 2)), -math.log(sigmoid(0.5 * -4))]
    assert dpo_loss(*PAIRS, beta=0.5).tolist() == pytest.approx(expected)
    # -log sigmoid(1) = 0.3133, -log sigmoid(-2) = 2.1269
    assert expected == pytest.approx([0.3133, 2.1269], abs=1e-4)


def test_ipo_is_the_squared_distance_to_a_finite_margin() -> None:
    # 1 / (2 · 0.25) = 2: (2 - 2)² and (-4 - 2)².
    assert ipo_loss(*PAIRS, beta=0.25).tolist() == [0, 36]


@pytest.mark.parametrize("loss", PREFERENCE_LOSSES)
def test_without_a_reference_its_log_probs_are_zero(loss: str) -> None:
    chosen, rejected = PAIRS[:2]
    zeros = torch.zeros(2)
    with_zeros = PREFERENCE_LOSSES[loss](chosen, rejected, zeros, zeros, beta=0.3)
    assert torch.equal(PREFERENCE_LOSSES[loss](chosen, rejected, 0.0, 0.0, beta=0.3), with_zeros)
    assert not torch.equal(PREFERENCE_LOSSES[loss](*PAIRS, beta=0.3), with_zeros)


def test_an_untrained_policy_has_loss_log_2() -> None:
    chosen, rejected = PAIRS[:2]
    losses = dpo_loss(chosen, rejected, chosen, rejected, beta=0.7, label_smoothing=0.2)
    assert losses.tolist() == pytest.approx([math.log(2)] * 2)


@pytest.mark.parametrize("loss", PREFERENCE_LOSSES)
def test_a_step_raises_the_chosen_answer_and_lowers_the_rejected_one(loss: str) -> None:
    chosen, rejected = tensor([-3.0], requires_grad=True), tensor([-3.0], requires_grad=True)
    PREFERENCE_LOSSES[loss](chosen, rejected, -3.0, -3.0, beta=0.1).sum().backward()
    assert chosen.grad < 0 < rejected.grad
    assert chosen.grad == -rejected.grad


def test_a_pair_that_is_right_already_pulls_less_than_one_that_is_wrong() -> None:
    h = tensor([-3.0, 3.0], requires_grad=True)
    dpo_loss(h, torch.zeros(2), 0.0, 0.0, beta=0.5).sum().backward()
    # The gradient of -log sigmoid(beta·h) is -beta · sigmoid(-beta·h) (Rafailov et al., section 4).
    assert h.grad.tolist() == pytest.approx([-0.5 * sigmoid(1.5), -0.5 * sigmoid(-1.5)])


@pytest.mark.parametrize("loss", PREFERENCE_LOSSES)
def test_smoothing_by_a_half_cannot_tell_the_labels_apart(loss: str) -> None:
    function, (chosen, rejected, ref_chosen, ref_rejected) = PREFERENCE_LOSSES[loss], PAIRS
    settings = {"beta": 0.5, "label_smoothing": 0.5}
    torch.testing.assert_close(
        function(*PAIRS, **settings), function(rejected, chosen, ref_rejected, ref_chosen, **settings)
    )


@pytest.mark.parametrize("loss", PREFERENCE_LOSSES)
def test_smoothing_is_the_expected_loss_of_labels_that_are_wrong_now_and_then(loss: str) -> None:
    function, (chosen, rejected, ref_chosen, ref_rejected) = PREFERENCE_LOSSES[loss], PAIRS
    right = function(*PAIRS, beta=0.5)
    wrong = function(rejected, chosen, ref_rejected, ref_chosen, beta=0.5)
    torch.testing.assert_close(function(*PAIRS, beta=0.5, label_smoothing=0.1), 0.9 * right + 0.1 * wrong)


def test_smoothed_dpo_is_best_where_the_implicit_reward_gives_the_share_of_right_labels() -> None:
    # sigmoid(beta·h) = 0.9
    assert optimum("sigmoid", beta=0.5, label_smoothing=0.1) == pytest.approx(math.log(9) / 0.5, rel=1e-4)


@pytest.mark.parametrize(("smoothing", "margin"), [(0.0, 2.0), (0.1, 1.6)])
def test_ipo_is_best_at_a_finite_margin_even_where_labels_are_certain(smoothing: float, margin: float) -> None:
    # (1 - 2e) / (2·beta)
    assert optimum("ipo", beta=0.25, label_smoothing=smoothing) == pytest.approx(margin, rel=1e-4)
