"""From samples to experience, with numbers worked out by hand."""

import pytest
import torch

from lightning_rlhf.experience import Sequences
from lightning_rlhf.rollout.collect import Samples, to_experience


@pytest.fixture
def samples() -> Samples:
    """Two responses, of two tokens and of one; P = 1, R = 2."""
    mask = torch.tensor([[True, True], [True, False]])
    return Samples(
        sequences=Sequences(torch.ones(2, 3, dtype=torch.long), torch.cat([torch.ones(2, 1).bool(), mask], 1), mask),
        logprobs=torch.tensor([[-1.0, -2.0], [-1.0, 9.0]]),
        entropy=torch.tensor([[1.0, 2.0], [3.0, 9.0]]),
        ref_logprobs=torch.tensor([[-1.5, -1.0], [-3.0, -9.0]]),
        values=torch.tensor([[0.5, 1.0], [2.0, 9.0]]),
        scores=torch.tensor([3.0, -1.0]),
        finished=torch.tensor([True, False]),
    )


def test_scores_and_kl_become_returns(samples: Samples) -> None:
    experience, _ = to_experience(samples, kl_coef=0.1, gamma=1.0, gae_lambda=1.0)
    # kl = logprobs - ref: (0.5, -1), (2); rewards = -0.1 kl, plus the score at the last token: (-0.05, 3.1), (-1.2).
    # With gamma = lambda = 1 returns are the sums of what is still to come, whatever the critic said.
    torch.testing.assert_close(experience.returns, torch.tensor([[3.05, 3.1], [-1.2, 0.0]]))


def test_advantages_have_mean_zero_and_variance_one_over_the_valid_tokens(samples: Samples) -> None:
    experience, _ = to_experience(samples, kl_coef=0.1, gamma=1.0, gae_lambda=1.0)
    # Before whitening: returns - values = (2.55, 2.1), (-3.2); mean 0.48333, population variance 6.81722.
    raw = torch.tensor([2.55, 2.1, -3.2])
    expected = (raw - raw.mean()) / raw.var(correction=0).sqrt()
    torch.testing.assert_close(experience.advantages[samples.sequences.response_mask], expected)
    assert experience.advantages[1, 1] == 0


def test_metrics_are_sums_over_tokens_and_means_over_responses(samples: Samples) -> None:
    _, metrics = to_experience(samples, kl_coef=0.1, gamma=1.0, gae_lambda=1.0)
    assert metrics["score_mean"] == 1.0
    assert metrics["score_std"] == 2.0
    assert metrics["kl"] == pytest.approx((0.5 - 1 + 2) / 2)
    assert metrics["kl_k2"] == pytest.approx((0.125 + 0.5 + 2) / 2)
    assert metrics["reward_mean"] == pytest.approx((3.05 - 1.2) / 2)
    assert metrics["entropy"] == pytest.approx(2.0)
    assert metrics["response_length"] == 1.5
    assert metrics["eos_rate"] == 0.5
    assert metrics["kl_coef"] == 0.1


def test_what_lies_under_the_padding_changes_nothing(samples: Samples) -> None:
    other = samples._replace(
        logprobs=samples.logprobs.masked_fill(~samples.sequences.response_mask, -77.0),
        values=samples.values.masked_fill(~samples.sequences.response_mask, 77.0),
    )
    first, metrics = to_experience(samples, kl_coef=0.1, gamma=0.9, gae_lambda=0.9)
    second, other_metrics = to_experience(other, kl_coef=0.1, gamma=0.9, gae_lambda=0.9)
    assert torch.equal(first.advantages, second.advantages)
    assert torch.equal(first.returns, second.returns)
    assert metrics == other_metrics
