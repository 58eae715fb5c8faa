"""The logged metrics of a rollout, with numbers worked out by hand."""

import pytest
import torch

from lightning_rlhf.experience import Experience, Scores, Sequences
from lightning_rlhf.rollout.collect import Greedy, Samples
from lightning_rlhf.rollout.metrics import rollout_metrics

# Two responses, of two tokens and of one; what is under the padding must not be read.
MASK = torch.tensor([[True, True], [True, False]])
SAMPLES = Samples(
    sequences=Sequences(torch.ones(2, 3, dtype=torch.long), torch.cat([torch.ones(2, 1).bool(), MASK], 1), MASK),
    scores=Scores(torch.tensor([3.0, -1.0]), {}),
    finished=torch.tensor([True, False]),
    sampler_logprobs=torch.tensor([[-1.3, -1.7], [-1.3, 5.0]]),
    weights_version=torch.tensor([[4], [4]]),
    scored=torch.tensor([True, True]),
    logprobs=torch.tensor([[-1.0, -2.0], [-1.0, 9.0]]),
    entropy=torch.tensor([[1.0, 2.0], [3.0, 9.0]]),
    ref_logprobs=torch.tensor([[-1.5, -1.0], [-3.0, -9.0]]),
    values=torch.tensor([[0.5, 1.0], [2.0, 9.0]]),
)


def metrics_of(samples: Samples, returns: torch.Tensor | None = None) -> dict[str, float]:
    zeros = torch.zeros(2, 2)
    judged = (zeros, zeros, samples.values, returns, zeros[:, :1])
    drawn = (samples.sampler_logprobs, samples.weights_version)
    experience = Experience(samples.sequences, samples.logprobs, *judged, *drawn)
    return rollout_metrics(samples, experience)


def test_metrics_are_sums_over_tokens_and_means_over_responses() -> None:
    metrics = metrics_of(SAMPLES._replace(values=None))
    # logprobs - ref_logprobs is (0.5, -1) and (2).
    k3 = [torch.tensor(-d).exp().item() - 1 + d for d in (0.5, -1.0, 2.0)]
    assert metrics == pytest.approx(
        {
            "score_mean": 1.0,
            "score_std": 2.0,
            "kl": (0.5 - 1 + 2) / 2,
            "kl_k2": (0.125 + 0.5 + 2) / 2,
            "kl_k3": sum(k3) / 2,
            "entropy": 2.0,
            "response_length": 1.5,
            "eos_rate": 0.5,
            # |0.3|, |-0.3| and |0.3| over three tokens.
            "sampler_mismatch": 0.3,
            "rescored_rate": 1.0,
        }
    )


def test_the_sampler_is_compared_with_what_the_actor_has_scored() -> None:
    # The sampler's numbers stand in for the first response, so that its difference of 0 is none.
    logprobs = torch.tensor([[-1.3, -1.7], [-1.0, 9.0]])
    metrics = metrics_of(SAMPLES._replace(logprobs=logprobs, scored=torch.tensor([False, True])))
    assert metrics["sampler_mismatch"] == pytest.approx(0.3)
    assert metrics["rescored_rate"] == 0.5


def test_a_critic_is_judged_by_the_returns() -> None:
    metrics = metrics_of(SAMPLES, torch.tensor([[0.5, 2.0], [2.0, 9.0]]))
    assert metrics["value_mean"] == pytest.approx(3.5 / 3)
    assert metrics["return_mean"] == pytest.approx(4.5 / 3)
    # The errors (0, 1, 0) have variance 2/9, and the returns (0.5, 2, 2) have 1/2.
    assert metrics["explained_variance"] == pytest.approx(1 - 4 / 9)


def test_what_only_some_runs_have_is_logged_by_these() -> None:
    parts = {"model": torch.tensor([1.0, 2.0]), "short": torch.tensor([0.0, 1.0])}
    samples = SAMPLES._replace(
        scores=SAMPLES.scores._replace(parts=parts),
        exact_kl=torch.tensor([[0.25, 0.5], [1.0, 77.0]]),
        greedy=Greedy(
            torch.tensor([4.0, 0.0]), torch.tensor([1, 1]), torch.tensor([True, True]), torch.tensor([0.0, 1.0])
        ),
    )
    more = {name: value for name, value in metrics_of(samples).items() if name not in metrics_of(SAMPLES)}
    assert more == {
        "score/model": 1.5,
        "score/short": 0.5,
        "kl_exact": (0.75 + 1) / 2,
        "greedy_score_mean": 2.5,
    }


def test_no_part_of_a_score_hides_the_score() -> None:
    parts = {"mean": torch.tensor([100.0, 100.0])}
    assert metrics_of(SAMPLES._replace(scores=SAMPLES.scores._replace(parts=parts)))["score_mean"] == 1.0
