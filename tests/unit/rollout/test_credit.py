"""From samples to experience, with numbers worked out by hand."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Experience, Scores, Sequences
from lightning_rlhf.ops.advantages import ESTIMATORS, Advantages, Trajectories, estimator
from lightning_rlhf.ops.kl import kl_estimates
from lightning_rlhf.ops.moments import Moments
from lightning_rlhf.rollout.collect import Greedy, Samples
from lightning_rlhf.rollout.credit import Credit, to_experience
from lightning_rlhf.rollout.shaping import RewardShaping

MASK = torch.tensor([[True, True], [True, False]])


@pytest.fixture
def samples() -> Samples:
    """Two responses, of two tokens and of one; P = 1, R = 2."""
    return Samples(
        sequences=Sequences(torch.ones(2, 3, dtype=torch.long), torch.cat([torch.ones(2, 1).bool(), MASK], 1), MASK),
        scores=Scores(torch.tensor([3.0, -1.0]), {}),
        finished=torch.tensor([True, False]),
        sampler_logprobs=torch.tensor([[-1.0, -2.0], [-1.0, 9.0]]),
        weights_version=torch.tensor([[4], [5]]),
        scored=torch.tensor([True, True]),
        logprobs=torch.tensor([[-1.0, -2.0], [-1.0, 9.0]]),
        entropy=torch.tensor([[1.0, 2.0], [3.0, 9.0]]),
        ref_logprobs=torch.tensor([[-1.5, -1.0], [-3.0, -9.0]]),
        values=torch.tensor([[0.5, 1.0], [2.0, 9.0]]),
    )


def judged(
    samples: Samples, credit: Credit, *, kl_coef: float = 0.1, moments: Moments | None = None, max_length: int = 2
) -> tuple[Experience, dict[str, float]]:
    return to_experience(samples, credit, kl_coef=kl_coef, moments=moments or Moments(), max_length=max_length)


def plain(**settings: Any) -> Credit:
    """Without critic and whitening, advantages are the returns to go."""
    return Credit(advantage="to_go", **settings)


@pytest.fixture(autouse=True)
def _to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ESTIMATORS, "to_go", ESTIMATORS["reinforce_pp"]._replace(whiten=False))


def test_scores_and_kl_become_returns(samples: Samples) -> None:
    experience, metrics = judged(samples, Credit(gae_lambda=1.0))
    # kl = logprobs - ref: (0.5, -1), (2); rewards = -0.1 kl, plus the score at the last token: (-0.05, 3.1), (-1.2).
    # With gamma = lambda = 1, returns are the sums of all later rewards, whatever the critic predicted.
    assert_close(experience.returns, torch.tensor([[3.05, 3.1], [-1.2, 0.0]]))
    assert metrics == {"reward_mean": pytest.approx((3.05 - 1.2) / 2)}


def test_advantages_of_gae_have_mean_zero_and_variance_one_over_the_valid_tokens(samples: Samples) -> None:
    experience, _ = judged(samples, Credit(gae_lambda=1.0))
    # Before whitening: returns - values = (2.55, 2.1), (-3.2); mean 0.48333, population variance 6.81722.
    raw = torch.tensor([2.55, 2.1, -3.2])
    expected = (raw - raw.mean()) / raw.var(correction=0).sqrt()
    assert_close(experience.advantages[MASK], expected)
    assert experience.advantages[1, 1] == 0


def test_gamma_and_lambda_reach_the_estimator(samples: Samples) -> None:
    # Rewards (0, 3); delta_1 = 3 - 1 = 2; delta_0 = 0.5 · 1 - 0.5 = 0; advantage 0 + 0.5 · 0.25 · 2 = 0.25.
    experience, _ = judged(samples, Credit(gamma=0.5, gae_lambda=0.25), kl_coef=0.0)
    assert_close(experience.returns, torch.tensor([[0.75, 3.0], [-1.0, 0.0]]))


def test_the_group_size_reaches_the_estimator_and_its_advantages_stay_as_they_are(samples: Samples) -> None:
    # The scores are 3 - (-1) and the reverse.
    experience, _ = judged(samples, Credit(advantage="rloo", num_samples_per_prompt=2), kl_coef=0.0)
    assert_close(experience.advantages, torch.tensor([[4.0, 4.0], [-4.0, 0.0]]))
    assert experience.returns is None


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_each_kl_estimator_can_be_in_the_rewards(samples: Samples, name: str) -> None:
    experience, _ = judged(samples, plain(kl_estimator=name))
    kl = getattr(kl_estimates(samples.logprobs, samples.ref_logprobs), name)
    expected = torch.tensor([[3.0 - 0.1 * kl[0].sum(), 3.0 - 0.1 * kl[0, 1]], [-1.0 - 0.1 * kl[1, 0], 0.0]])
    assert_close(experience.advantages, expected)


@pytest.mark.parametrize("name", ["k2", "k3", "k3+"])
def test_a_kl_in_the_loss_is_not_in_the_rewards(samples: Samples, name: str) -> None:
    credit = plain(kl_in="loss", kl_estimator=name)
    experience, _ = judged(samples, credit)
    assert_close(experience.advantages, torch.tensor([[3.0, 3.0], [-1.0, 0.0]]))
    assert credit.kl_loss is not None
    value = credit.kl_loss(samples.logprobs, samples.ref_logprobs)
    assert_close(value, getattr(kl_estimates(samples.logprobs, samples.ref_logprobs), name.rstrip("+")))
    assert plain().kl_loss is None


def with_token_scores(samples: Samples) -> Samples:
    """Scores 3 and -1 of the responses, and 1, 2 and 4 of their tokens, which add up to 6 and 3."""
    return samples._replace(scores=samples.scores._replace(tokens=torch.tensor([[1.0, 2.0], [4.0, 0.0]])))


def test_a_token_gets_its_own_score_and_the_last_one_that_of_the_response_too(samples: Samples) -> None:
    experience, metrics = judged(with_token_scores(samples), plain(), kl_coef=0.1)
    # Penalties are -0.1 · (0.5, -1), -0.1 · 2. The returns sum the rewards (-0.05 + 1, 0.1 + 2 + 3), (-0.2 + 4 - 1).
    assert_close(experience.advantages, torch.tensor([[6.05, 5.1], [2.8, 0.0]]))
    assert metrics == {"reward_mean": pytest.approx((6.05 + 2.8) / 2)}


def test_scores_of_tokens_are_not_shaped(samples: Samples) -> None:
    # Scores 3 and -1 at mean 1 and deviation 2 become 1 and -1, clipped to ±0.5; the missing end of the second costs 5.
    # The scores of tokens stay 1, 2 and 4.
    shaping = RewardShaping(normalize=True, clip=0.5, missing_eos_penalty=5.0)
    experience, _ = judged(
        with_token_scores(samples), plain(shaping=shaping), kl_coef=0.0, moments=Moments(4, 1.0, 16.0)
    )
    assert_close(experience.advantages, torch.tensor([[3.5, 2.5], [-1.5, 0.0]]))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # The totals are 3 + 1 + 2 and -1 + 4. A response is one action, so all of its tokens get the same advantage.
        ("rloo", [[3.0, 3.0], [-3.0, 0.0]]),
        ("grpo_no_std", [[1.5, 1.5], [-1.5, 0.0]]),
        # The sums to go are (6, 5) and (3), minus the scores of the greedy responses, 2 + 0.5 and 0 + 1.
        ("remax", [[3.5, 2.5], [2.0, 0.0]]),
    ],
)
def test_estimators_see_the_scores_of_tokens(samples: Samples, name: str, expected: list[list[float]]) -> None:
    greedy = Greedy(torch.tensor([2.0, 0.0]), torch.tensor([1, 2]), torch.ones(2) > 0, torch.tensor([0.5, 1.0]))
    credit = Credit(advantage=name, num_samples_per_prompt=2 if ESTIMATORS[name].group else 1)
    experience, _ = judged(with_token_scores(samples)._replace(greedy=greedy), credit, kl_coef=0.0)
    assert_close(experience.advantages, torch.tensor(expected))


def test_gae_answers_for_the_scores_of_tokens_that_follow(samples: Samples) -> None:
    # Rewards (1, 2 + 3), values (0.5, 1), gamma = lambda = 1/2: delta_1 = 5 - 1 = 4, delta_0 = 1 + 0.5 - 0.5 = 1;
    # the advantages are 1 + 4/4 and 4, and the returns 2.5 and 5. The second response has 4 - 1.
    experience, _ = judged(with_token_scores(samples), Credit(gamma=0.5, gae_lambda=0.5), kl_coef=0.0)
    assert_close(experience.returns, torch.tensor([[2.5, 5.0], [3.0, 0.0]]))


def test_an_estimator_gets_both_kinds_of_scores(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ESTIMATORS, "spy", ESTIMATORS["gae"])

    @estimator("spy")
    def spy(trajectories: Trajectories) -> Advantages:
        return Advantages(
            torch.where(trajectories.mask, trajectories.scores[:, None], 0) + 10 * trajectories.token_scores
        )

    shaping = RewardShaping(missing_eos_penalty=5.0)
    experience, _ = judged(with_token_scores(samples), Credit(advantage="spy", shaping=shaping))
    # The scores are 3 and -1 - 5.
    assert_close(experience.advantages, torch.tensor([[13.0, 23.0], [34.0, 0.0]]))
    # A source that does not score tokens leaves zeros.
    without, _ = judged(samples, Credit(advantage="spy"))
    assert_close(without.advantages, torch.tensor([[3.0, 3.0], [-1.0, 0.0]]))


def test_groups_differ_if_the_scores_of_their_tokens_do(samples: Samples) -> None:
    credit, even = Credit(advantage="rloo", num_samples_per_prompt=2), Scores(torch.tensor([1.0, 1.0]), {})
    for tokens, expected in ([[1.0, 2.0], [3.0, 0.0]], 1.0), ([[1.0, 2.0], [4.0, 0.0]], 0.0):
        _, metrics = judged(samples._replace(scores=even._replace(tokens=torch.tensor(tokens))), credit)
        assert metrics["zero_variance_groups"] == expected


def test_the_width_of_the_tensors_is_not_the_length_limit(samples: Samples) -> None:
    """A limit of 4 tokens with responses of at most 2, which are all the columns that a trimmed rollout has."""
    wide = Samples(*(padded(field) for field in samples))
    # A buffer of 3 tokens begins after the first token, so the response of 2 tokens loses 1/3.
    credit = plain(shaping=RewardShaping(overlong_buffer=3))
    expected = torch.tensor([[3 - 1 / 3, 3 - 1 / 3], [-1.0, 0.0]])
    trimmed, _ = judged(samples, credit, kl_coef=0.0, max_length=4)
    assert_close(trimmed.advantages, expected)
    experience, _ = judged(wide, credit, kl_coef=0.0, max_length=4)
    assert torch.equal(experience.advantages[:, :2], trimmed.advantages)


def padded(field: Any) -> Any:
    """Returns a field of samples with two more columns, which no response uses."""
    if isinstance(field, Sequences):
        return Sequences(*map(padded, field))
    if isinstance(field, Tensor) and field.dim() == 2:
        return torch.nn.functional.pad(field, (0, 2))
    return field


def test_whitened_rewards_have_variance_one_around_their_mean(samples: Samples) -> None:
    experience, metrics = judged(samples, plain(shaping=RewardShaping(whiten=True)))
    # The rewards (-0.05, 3.1), (-1.2) have mean 0.61667 and population variance 3.31056.
    raw = torch.tensor([-0.05, 3.1, -1.2])
    first, second, third = raw.mean() + (raw - raw.mean()) / raw.var(correction=0).sqrt()
    assert_close(experience.advantages, torch.tensor([[first + second, second], [third, 0.0]]))
    assert metrics["reward_mean"] == pytest.approx(float(first + second + third) / 2)


def test_scores_are_shaped_before_they_become_rewards(samples: Samples) -> None:
    # With mean 1 and deviation 2, the scores become 1 and -1. The second response has no end, which costs 5. A buffer
    # of one token punishes the first response, whose two tokens reach the limit.
    shaping = RewardShaping(normalize=True, missing_eos_penalty=5.0, overlong_buffer=1)
    experience, _ = judged(samples, plain(shaping=shaping), kl_coef=0.0, moments=Moments(4, 1.0, 16.0))
    assert_close(experience.advantages, torch.tensor([[0.0, 0.0], [-6.0, 0.0]]))


def test_the_greedy_baseline_is_shaped_as_the_scores_are(samples: Samples) -> None:
    greedy = Greedy(
        torch.tensor([2.0, 0.0]),
        lengths=torch.tensor([1, 2]),
        finished=torch.tensor([False, True]),
        token_scores=torch.zeros(2),
    )
    shaping = RewardShaping(normalize=True, missing_eos_penalty=5.0, length_penalty=0.5)
    # The scores (3, -1) become 1, -1; minus lengths 1 and 0.5 and the missing end of the second, they are 0 and -6.5.
    # Greedy scores (2, 0) become 0.5, -0.5; minus lengths 0.5 and 1 and the missing end of the first: -5 and -1.5.
    experience, _ = judged(
        samples._replace(greedy=greedy),
        Credit(advantage="remax", shaping=shaping),
        kl_coef=0.0,
        moments=Moments(4, 1.0, 16.0),
    )
    assert_close(experience.advantages, torch.tensor([[5.0, 5.0], [-5.0, 0.0]]))


@pytest.mark.parametrize(
    ("scores", "expected"), [([1.0, 1.0, 2.0, 2.0], 1.0), ([1.0, 1.0, 2.0, 3.0], 0.5), ([1.0, 2.0, 2.0, 1.0], 0.0)]
)
def test_groups_of_equal_scores_are_counted(samples: Samples, scores: list[float], expected: float) -> None:
    def twice(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor])

    four = samples._replace(
        sequences=Sequences(*map(twice, samples.sequences)),
        scores=Scores(torch.tensor(scores), {}),
        **{
            name: twice(getattr(samples, name))
            for name in (
                "finished",
                "sampler_logprobs",
                "weights_version",
                "logprobs",
                "entropy",
                "ref_logprobs",
                "values",
            )
        },
    )
    _, metrics = judged(four, Credit(advantage="rloo", num_samples_per_prompt=2))
    assert metrics["zero_variance_groups"] == expected


def test_the_update_knows_what_the_sampler_said_and_which_weights_it_had(samples: Samples) -> None:
    samples = samples._replace(sampler_logprobs=samples.logprobs - 0.5)
    experience, _ = judged(samples, plain())
    assert torch.equal(experience.sampler_logprobs, samples.logprobs - 0.5)
    assert experience.weights_version.tolist() == [[4], [5]]


def test_what_lies_under_the_padding_changes_nothing(samples: Samples) -> None:
    other = samples._replace(
        logprobs=samples.logprobs.masked_fill(~MASK, -77.0), values=samples.values.masked_fill(~MASK, 77.0)
    )
    for credit in (Credit(gamma=0.9, gae_lambda=0.9), Credit(kl_estimator="k3", shaping=RewardShaping(whiten=True))):
        first, metrics = judged(samples, credit)
        second, other_metrics = judged(other, credit)
        assert torch.equal(first.advantages, second.advantages)
        assert torch.equal(first.returns, second.returns)
        assert metrics == other_metrics


def test_impossible_settings_are_named_all_at_once() -> None:
    with pytest.raises(UserError) as caught:
        Credit(advantage="grpo", gamma=1.5, gae_lambda=-0.1, kl_in="loss", kl_estimator="k1")
    assert str(caught.value).splitlines() == [
        "gamma=1.5: must lie in [0, 1]",
        "gae_lambda=-0.1: must lie in [0, 1]",
        "kl_estimator=k1 with kl_in=loss: expected one of k2, k3, k3+ (k1 has no gradient on average)",
        "num_samples_per_prompt=1: advantage=grpo compares the responses to one prompt, so it needs at least 2",
    ]


@pytest.mark.parametrize("name", ["grpo", "grpo_no_std", "rloo", "reinforce_pp_baseline"])
def test_an_estimator_that_compares_needs_a_group(name: str) -> None:
    with pytest.raises(UserError, match=f"advantage={name} compares the responses to one prompt"):
        Credit(advantage=name)
    assert Credit(advantage=name, num_samples_per_prompt=2).estimator is ESTIMATORS[name]


@pytest.mark.parametrize("count", [0, -1])
def test_a_group_has_at_least_one_response(count: int) -> None:
    with pytest.raises(UserError, match=f"^num_samples_per_prompt={count}: must be positive$"):
        Credit(advantage="rloo", num_samples_per_prompt=count)


def test_k3_plus_is_for_the_loss_alone() -> None:
    with pytest.raises(UserError, match=r"kl_estimator=k3\+ with kl_in=reward: expected one of k1, k2, k3$"):
        Credit(kl_estimator="k3+")


def test_an_unknown_estimator_names_all_that_there_are() -> None:
    with pytest.raises(UserError, match="advantage=gea: expected one of gae, grpo, grpo_no_std, rloo, "):
        Credit(advantage="gea")


@pytest.fixture
def _trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ESTIMATORS, "trimmed", ESTIMATORS["gae"])

    @estimator("trimmed")
    def trimmed(trajectories: Trajectories, *, gamma: float, share: float, ends: int = 0) -> Advantages:
        if share > 1:
            raise ValueError(f"share={share}: must lie in [0, 1]")
        return Advantages(torch.where(trajectories.mask, gamma + share + ends, 0))


@pytest.mark.usefixtures("_trimmed")
def test_an_estimator_gets_its_options_and_those_of_the_shared_settings_that_it_declares(samples: Samples) -> None:
    credit = Credit(advantage="trimmed", options={"share": 0.25, "ends": 3}, gamma=0.5)
    experience, _ = judged(samples, credit)
    assert_close(experience.advantages, torch.tensor([[3.75, 3.75], [3.75, 0.0]]))


@pytest.mark.usefixtures("_trimmed")
def test_an_impossible_option_is_an_error_before_anything_is_sampled() -> None:
    with pytest.raises(UserError) as caught:
        Credit(advantage="trimmed", options={"shere": 0.5, "ends": 0.5}, gamma=2.0)
    assert str(caught.value).splitlines() == [
        "gamma=2.0: must lie in [0, 1]",
        "options.shere=0.5: the options of advantage=trimmed are share, ends; did you mean options.share?",
        "options.ends=0.5: advantage=trimmed expects a whole number",
        "options.share is not set: advantage=trimmed needs it",
    ]
    with pytest.raises(UserError, match=r"^advantage=trimmed: share=2: must lie in \[0, 1\]$"):
        Credit(advantage="trimmed", options={"share": 2})
    with pytest.raises(UserError) as caught:
        Credit(advantage="rloo", num_samples_per_prompt=2, options={"share": 1, "gamma": 0.5})
    assert str(caught.value).splitlines() == [
        "options.share=1: the options of advantage=rloo are none",
        "options.gamma=0.5: gamma is not an option but a setting of its own; set gamma=0.5",
    ]


def test_an_estimator_of_ones_own_is_found_by_module_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_advantages.py").write_text(
        "from lightning_rlhf.ops.advantages import Advantages, estimator\n\n\n"
        '@estimator("constant", group=True)\n'
        "def constant(trajectories, *, gamma, gae_lambda):\n"
        "    return Advantages(gamma * trajectories.mask)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_advantages", raising=False)
    # monkeypatch undoes the registration at the end of the test.
    monkeypatch.setitem(ESTIMATORS, "constant", ESTIMATORS["gae"])
    credit = Credit(advantage="my_advantages:constant", num_samples_per_prompt=2)
    assert credit.estimator.estimate.__name__ == "constant"
    assert not credit.estimator.critic
    with pytest.raises(UserError, match="advantage=my_advantages:constant compares the responses to one prompt"):
        Credit(advantage="my_advantages:constant")
    with pytest.raises(UserError, match="advantage=my_advantages:other: expected one of gae, "):
        Credit(advantage="my_advantages:other")


def test_an_unknown_place_of_the_kl_is_named() -> None:
    with pytest.raises(UserError, match="kl_in=rewards: must be one of reward, loss"):
        Credit(kl_in="rewards", kl_estimator="k2")  # type: ignore[arg-type]
