"""Log-probabilities and entropies of tokens."""

from math import log

import pytest
import torch
from torch.testing import assert_close

from lightning_rlhf.ops import logprobs
from lightning_rlhf.ops.logprobs import token_entropy, token_logprobs

# The softmax of these logits is (1/2, 1/4, 1/4).
LOGITS = torch.tensor([[[log(2), 0.0, 0.0]]])


def test_the_logprob_is_that_of_the_token_at_the_same_place() -> None:
    # Row 0 has (1/2, 1/4, 1/4), and row 1 the reverse.
    logits = torch.cat([LOGITS, LOGITS.flip(-1)], dim=1)
    expected = torch.tensor([[log(1 / 2), log(1 / 4)]])
    assert_close(token_logprobs(logits, torch.tensor([[0, 0]])), expected)


def test_the_logprob_agrees_with_log_softmax() -> None:
    logits, tokens = torch.randn(3, 4, 7, generator=torch.manual_seed(0)), torch.arange(12).view(3, 4) % 7
    expected = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    assert_close(token_logprobs(logits, tokens), expected)


def test_the_gradient_raises_the_logit_of_the_token_and_lowers_the_others() -> None:
    # d log p_0 / d logits = onehot(0) - p = (1 - 1/2, -1/4, -1/4).
    logits = LOGITS.clone().requires_grad_()
    token_logprobs(logits, torch.tensor([[0]])).sum().backward()
    assert_close(logits.grad, torch.tensor([[[0.5, -0.25, -0.25]]]))


def test_the_entropy_is_in_nats() -> None:
    # The entropy is 1/2 ln 2 + 2 · 1/4 ln 4 = 1.5 ln 2; that of a uniform distribution of eight is ln 8.
    assert_close(token_entropy(LOGITS), torch.tensor([[1.5 * log(2)]]))
    assert_close(token_entropy(torch.full((2, 3, 8), 9.0)), torch.full((2, 3), log(8)))


def test_half_precision_logits_are_normalised_in_full_precision() -> None:
    logits, tokens = torch.randn(2, 3, 50, generator=torch.manual_seed(0)).bfloat16(), torch.arange(6).view(2, 3)
    assert_close(token_logprobs(logits, tokens), token_logprobs(logits.float(), tokens), rtol=0, atol=0)
    assert_close(token_entropy(logits), token_entropy(logits.float()), rtol=0, atol=0)


def test_a_certain_distribution_has_finite_logprobs_and_no_entropy() -> None:
    logits = torch.tensor([[[1e4, 0.0, -1e4]]])
    assert_close(token_logprobs(logits, torch.tensor([[2]])), torch.tensor([[-2e4]]))
    assert_close(token_entropy(logits), torch.tensor([[0.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_going_through_a_few_positions_at_a_time_changes_neither_numbers_nor_gradients(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(logprobs, "_CHUNK", 1)
    torch.manual_seed(0)
    rows = torch.randn(3, 38, 11, dtype=dtype, requires_grad=True)
    # Logits may be a part of what a model has computed.
    logits, tokens, weights = rows[:, :-1], torch.randint(11, (3, 37)), torch.randn(3, 37)
    plain = logits.float().log_softmax(-1)
    expected = plain.gather(2, tokens[..., None])[..., 0], -(plain.exp() * plain).sum(-1)
    for found, wanted in zip((token_logprobs(logits, tokens), token_entropy(logits)), expected, strict=True):
        assert_close(found, wanted, rtol=0, atol=1e-6)
        gradients = [torch.autograd.grad((x * weights).sum(), rows, retain_graph=True)[0] for x in (found, wanted)]
        assert_close(*gradients)
        assert gradients[0].abs().sum() > 0
