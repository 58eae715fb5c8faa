"""The relatives of PPO in the real module: estimators, everything that shares a minibatch, metrics, mistakes."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from support import Watch, trainer
from torch import Tensor
from torch.testing import assert_close

from lightning_rlhf import ModelSource, PPOModule, Renderer, TextReward, WeightedSum
from lightning_rlhf.data.prompts import Prompt, collate_prompts
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Rollout
from lightning_rlhf.modules.optim import Optim
from lightning_rlhf.modules.ppo_loss import PPOLoss
from lightning_rlhf.ops.advantages import ESTIMATORS, Advantages, Trajectories, estimator
from lightning_rlhf.ops.aggregation import AGGREGATIONS
from lightning_rlhf.ops.losses import POLICY_LOSSES
from lightning_rlhf.rollout.credit import Credit
from lightning_rlhf.rollout.dataset import Minibatch
from lightning_rlhf.rollout.drawing import to_answers
from lightning_rlhf.rollout.engines.padded import PaddedEngine
from lightning_rlhf.rollout.sampled import sample
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.rollout.shaping import RewardShaping
from lightning_rlhf.seeding import SAMPLING, RandomKey

# Adam would turn a gradient that is 0 up to rounding into a full step; SGD leaves it small.
SGD = Optim(optimizer=partial(torch.optim.SGD, lr=0.0))
LENGTH = TextReward(lambda prompts, responses: [len(response) / 10 for response in responses])


@pytest.fixture
def parts(parts: Callable, source: ModelSource) -> Callable:
    """The usual parts, but one in five tokens ends a response, so responses differ in length."""
    return partial(parts, renderer=Renderer(source.load_tokenizer(), stop_ids=range(4, 814, 5)))


def credit_of(name: str, **settings: Any) -> Credit:
    """Returns settings with groups of four if the estimator compares responses."""
    return Credit(advantage=name, num_samples_per_prompt=4 if ESTIMATORS[name].group else 1, **settings)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_trains_the_nets_that_it_needs_and_no_others(
    name: str, parts: Callable, tmp_path: Path
) -> None:
    watch = Watch()
    module, data = parts("ppo", credit=credit_of(name), reward=LENGTH)
    module.configure_model()
    before = {key: weight.clone() for key, weight in module.state_dict().items()}
    fitted = trainer(tmp_path, watch)
    fitted.fit(module, data)
    trained = {"actor", "critic"} if name == "gae" else {"actor"}
    moved = {key.split(".")[1] for key, weight in module.state_dict().items() if not torch.equal(weight, before[key])}
    assert moved == trained
    assert {key.split(".")[1] for key in before} == trained | {"reference"}
    assert {group["name"].split("_")[0] for group in fitted.optimizers[0].param_groups} == trained
    of_a_critic = {"value_mean", "return_mean", "explained_variance"}
    assert watch.rollouts[0].metrics.keys() & of_a_critic == (of_a_critic if name == "gae" else set())
    of_its_loss = {"train/value_loss", "train/value_clip_fraction"}
    assert fitted.callback_metrics.keys() & of_its_loss == (of_its_loss if name == "gae" else set())
    assert ("zero_variance_groups" in watch.rollouts[0].metrics) == ESTIMATORS[name].group
    assert module.absent_nets().keys() == (set() if name == "gae" else {"critic"})


def test_the_responses_to_a_prompt_stand_side_by_side(parts: Callable, tmp_path: Path) -> None:
    watch = Watch()
    module, data = parts("ppo", credit=credit_of("rloo"), reward=LENGTH)
    trainer(tmp_path, watch).fit(module, data)
    prompts = watch.rollouts[0].prompts
    assert prompts == [prompt for prompt in prompts[::4] for _ in range(4)]
    assert len(set(prompts)) == 4
    ids = watch.rollouts[0].experience.sequences.input_ids
    assert len({tuple(row) for row in ids.tolist()}) == 16


@pytest.mark.parametrize("by_module", [False, True])
def test_an_estimator_of_ones_own_is_one_decorated_function(
    by_module: bool, parts: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # monkeypatch undoes the registration at the end of the test.
    monkeypatch.setitem(ESTIMATORS, "always_2", ESTIMATORS["gae"])
    name = "always_2"
    if by_module:
        (tmp_path / "mine.py").write_text(
            "from lightning_rlhf.ops.advantages import Advantages, estimator\n\n\n"
            '@estimator("always_2")\n'
            "def always_2(trajectories, *, factor: float):\n"
            "    return Advantages(factor * trajectories.mask)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "mine", raising=False)
        name = "mine:always_2"
    else:

        @estimator("always_2")
        def always_2(trajectories: Trajectories, *, factor: float) -> Advantages:
            return Advantages(factor * trajectories.mask)

    watch, credit = Watch(), Credit(advantage=name, options={"factor": 2.0})
    module, data = parts("ppo", credit=credit, critic=None, minibatch_size=16, ppo_epochs=1)
    fitted = trainer(tmp_path, watch)
    fitted.fit(module, data)
    experience = watch.rollouts[0].experience
    assert_close(experience.advantages, 2.0 * experience.sequences.response_mask)
    # The ratio is 1 in the first update.
    assert float(fitted.callback_metrics["train/policy_loss"]) == pytest.approx(-2.0)


def test_a_reward_that_scores_tokens_reaches_the_update(parts: Callable, tmp_path: Path) -> None:
    def places(prompts: list[str], responses: list[str], response_tokens: list[list[str]]) -> list[list[float]]:
        return [[place / 100 for place in range(len(texts))] for texts in response_tokens]

    watch = Watch()
    reward = WeightedSum({"whole": LENGTH, "places": TextReward(places)}, {"whole": 1.0, "places": 10.0})
    shaping = RewardShaping(normalize=True)
    module, data = parts("ppo", credit=credit_of("grpo_no_std", shaping=shaping), reward=reward, lr=0.0, kl_coef=0.0)
    # The rollout has several micro-batches, whose longest responses differ.
    module.rollout_micro_batch_size = 4
    trainer(tmp_path, watch).fit(module, data)
    (rollout,) = watch.rollouts
    lengths = rollout.experience.sequences.response_mask.sum(1)
    assert lengths.unique().numel() > 1
    # The tokens of a response score 0, 0.01, ... by their places; the sum over n tokens is weighted by 10.
    of_tokens = 10 * (lengths * (lengths - 1)) / 200
    whole = torch.tensor([len(response) / 10 for response in rollout.responses])
    assert_close(rollout.scores, whole + of_tokens)
    # Only scores of whole responses are normalised, by their own moments.
    assert module.moments.mean == pytest.approx(float(whole.mean()))
    totals = ((whole - whole.mean()) / whole.std(correction=0) + of_tokens).view(-1, 4)
    expected = (totals - totals.mean(1, keepdim=True)).view(-1, 1)
    mask = rollout.experience.sequences.response_mask
    assert_close(rollout.experience.advantages, torch.where(mask, expected, 0), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def greedy_score(module: PPOModule, prompt: Prompt) -> float:
    """The reward model's score of the likeliest answer, computed without other rows and padding."""
    batch = collate_prompts([prompt], [0])
    sampled = sample(
        PaddedEngine(module.roles.actor.eval(), module.device),
        batch.input_ids,
        batch.attention_mask,
        [RandomKey(0, (SAMPLING,), 0)],
        replace(module.sampling, temperature=0.0),
        stop_ids=module.renderer.stop_ids,
    )
    return float(module.roles.scores(to_answers(sampled.sequences, batch, module.renderer)).total)


def test_the_baseline_of_remax_is_the_score_of_a_real_greedy_answer(parts: Callable, tmp_path: Path) -> None:
    watch = Watch()
    module, data = parts("ppo", credit=Credit(advantage="remax"), lr=0.0, kl_coef=0.0)
    trainer(tmp_path, watch).fit(module, data)
    (rollout,) = watch.rollouts
    by_text = {prompt.text: prompt for prompt in data.train_prompts}
    greedy = torch.tensor([greedy_score(module, by_text[text]) for text in rollout.prompts])
    assert greedy.std() > 0.001
    assert (rollout.scores - greedy).abs().min() > 0.001
    mask = rollout.experience.sequences.response_mask
    expected = torch.where(mask, (rollout.scores - greedy)[:, None], 0)
    assert_close(rollout.experience.advantages, expected, atol=1e-5, rtol=1e-5)
    assert rollout.metrics["greedy_score_mean"] == pytest.approx(float(greedy.mean()))


def distance(weights: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    return max(float((weight - others[name]).abs().max()) for name, weight in weights.items())


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("policy", POLICY_LOSSES)
def test_eight_responses_are_one_minibatch_however_they_are_cut(
    policy: str, aggregation: str, parts: Callable, tmp_path: Path
) -> None:
    weights = []
    for accumulated in (1, 2, 4, 8):
        module, data = parts(
            "ppo",
            credit=credit_of("rloo", kl_in="loss", kl_estimator="k3"),
            loss=PPOLoss(policy=policy, aggregation=aggregation, ent_coef=0.01),  # type: ignore[arg-type]
            reward=LENGTH,
            optim=SGD,
            lr=0.5,
        )
        module.configure_model()
        start = {name: weight.clone() for name, weight in module.state_dict().items()}
        trainer(tmp_path, accumulate_grad_batches=accumulated).fit(module, data)
        weights.append(module.state_dict())
    assert distance(weights[0], start) > 0.01
    assert max(distance(cut, weights[0]) for cut in weights[1:]) < 2e-6


def test_a_critic_sees_one_minibatch_however_it_is_cut(parts: Callable, tmp_path: Path) -> None:
    weights = []
    for accumulated in (1, 2, 4, 8):
        module, data = parts("ppo", loss=PPOLoss(vf_coef=1.0), optim=SGD, lr=0.1, critic_lr=0.1)
        module.configure_model()
        start = {name: weight.clone() for name, weight in module.state_dict().items()}
        trainer(tmp_path, accumulate_grad_batches=accumulated).fit(module, data)
        weights.append({name: weight for name, weight in module.state_dict().items() if "critic" in name})
    assert distance(weights[0], start) > 0.01
    assert max(distance(cut, weights[0]) for cut in weights[1:]) < 2e-6


def test_two_processes_share_groups_and_minibatches_and_learn_the_same(
    parts: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Lightning leaves the port in the environment; monkeypatch removes it at the end.
    monkeypatch.setenv("MASTER_PORT", "")
    monkeypatch.delenv("MASTER_PORT")
    results = []
    for settings in ({}, {"strategy": "ddp_fork", "devices": 2}):
        # With three groups of four, each process has half of the second group.
        module, data = parts(
            "ppo",
            credit=credit_of("grpo"),
            loss=PPOLoss(ent_coef=0.01),
            reward=LENGTH,
            rollout_batch_size=12,
            minibatch_size=6,
            optim=SGD,
            lr=0.1,
        )
        # The weights are built here, since the forked processes would each build their own.
        module.configure_model()
        start = {name: weight.clone() for name, weight in module.state_dict().items()}
        fitted = trainer(tmp_path, max_epochs=2, **settings)
        fitted.fit(module, data)
        assert distance(module.state_dict(), start) > 0.001
        results.append((module.state_dict(), fitted.callback_metrics))
    (weights, metrics), (shared_weights, shared_metrics) = results
    assert distance(shared_weights, weights) < 2e-6
    # Means over the tokens of a part depend on the parts.
    of_parts = {"train/approx_kl", "train/clip_fraction"}
    assert metrics.keys() - of_parts >= {"train/policy_loss", "train/entropy"}
    for name in metrics.keys() - of_parts:
        assert_close(shared_metrics[name], metrics[name], rtol=1e-4, atol=1e-6, msg=name)


def test_a_token_budget_bounds_micro_batches_and_changes_nothing_else(
    parts: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_PORT", "")
    monkeypatch.delenv("MASTER_PORT")
    results = []
    for budget, settings in (
        (None, {}),
        (200, {"accumulate_grad_batches": 6}),
        (200, {"accumulate_grad_batches": 3, "strategy": "ddp_fork", "devices": 2}),
    ):
        sizes = {"rollout_batch_size": 24, "minibatch_size": 12, "max_tokens_per_micro_batch": budget}
        module, data = parts("ppo", loss=PPOLoss(vf_coef=1.0), optim=SGD, lr=0.1, critic_lr=0.1, **sizes)
        module.configure_model()
        start = {name: weight.clone() for name, weight in module.state_dict().items()}
        shapes = Shapes(budget or 1000)
        fitted = trainer(tmp_path, shapes, **settings)
        fitted.fit(module, data)
        assert distance(module.state_dict(), start) > 0.001
        results.append((module.state_dict(), fitted.callback_metrics))
        # Lightning does not bring back the callbacks of forked processes.
        if fitted.world_size == 1:
            assert len(shapes.seen) == 4 * fitted.accumulate_grad_batches
            assert len({rows for rows, _ in shapes.seen}) > (budget is not None)
    weights, metrics = results[0]
    for other_weights, other_metrics in results[1:]:
        assert distance(other_weights, weights) < 2e-6
        for name in ("train/loss", "train/policy_loss", "train/value_loss"):
            assert_close(other_metrics[name], metrics[name], rtol=1e-4, atol=1e-6, msg=name)


class Shapes(pl.Callback):
    """Keeps the shape of every micro-batch, none of which may have more tokens than allowed."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.seen: list[tuple[int, ...]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Minibatch, batch_idx: int) -> None:
        self.seen.append(tuple(batch.experience.sequences.input_ids.shape))
        assert batch.experience.sequences.input_ids.numel() <= self.most


@pytest.mark.parametrize("temperature", [0.7, 1.0, 4.0])
def test_metrics_of_a_rollout_are_those_of_the_real_nets(temperature: float, parts: Callable, tmp_path: Path) -> None:
    expected: list[float] = []

    class Enumerate(Watch):
        @torch.no_grad()
        def on_rollout_end(self, trainer: Any, module: Any, rollout: Rollout) -> None:
            """Computes the metrics by sums over the vocabulary, one response at a time, without padding."""
            super().on_rollout_end(trainer, module, rollout)
            sums = []
            sequences = rollout.experience.sequences
            for ids, mask, length in zip(
                sequences.input_ids, sequences.attention_mask, sequences.response_mask.sum(1).tolist(), strict=True
            ):
                p, q = (
                    (net(ids[mask][None]).logits[0, -length - 1 : -1].double() / temperature).softmax(-1)
                    for net in (module.roles.actor, module.roles.reference)
                )
                sums.append(float((p * (p / q).log()).sum()))
            expected.append(sum(sums) / len(sums))

    watch = Enumerate()
    module, data = parts(
        "ppo",
        credit=credit_of("rloo"),
        reward=LENGTH,
        exact_kl=True,
        lr=1e-2,
        sampling=Sampling(max_new_tokens=8, temperature=temperature),
    )
    trainer(tmp_path, watch, max_epochs=2).fit(module, data)
    first, second = (rollout.metrics for rollout in watch.rollouts)
    assert first["kl_exact"] == pytest.approx(0, abs=1e-6)
    assert second["kl_exact"] > 1e-3
    assert second["kl_exact"] == pytest.approx(expected[1], rel=1e-3)
    assert max(first["sampler_mismatch"], second["sampler_mismatch"]) < 1e-5


@pytest.mark.parametrize(("reward", "share"), [(lambda prompts, responses: [1.0] * len(responses), 1.0), (LENGTH, 0.0)])
def test_groups_without_a_difference_are_counted(
    reward: Callable | TextReward, share: float, parts: Callable, tmp_path: Path
) -> None:
    watch = Watch()
    module, data = parts(
        "ppo", credit=credit_of("grpo"), reward=reward if isinstance(reward, TextReward) else TextReward(reward)
    )
    trainer(tmp_path, watch).fit(module, data)
    assert watch.rollouts[0].metrics["zero_variance_groups"] == share


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_rollout_and_its_update_work_in_one_precision_throughout(
    precision: str, parts: Callable, tmp_path: Path
) -> None:
    watch = Watch()
    module, data = parts("ppo", exact_kl=True, minibatch_size=16, ppo_epochs=1)
    fitted = trainer(tmp_path, watch, precision=precision)
    fitted.fit(module, data)
    assert all(value == value for value in watch.rollouts[0].metrics.values())
    assert watch.rollouts[0].metrics["sampler_mismatch"] < 0.1
    assert watch.rollouts[0].experience.sampler_logprobs.dtype == torch.float32
    assert float(fitted.callback_metrics["train/approx_kl"]) < 1e-3


def test_what_needs_a_critic_says_so(parts: Callable) -> None:
    with pytest.raises(UserError, match="advantage=gae needs a critic, and none is given"):
        parts("ppo", critic=None)


def test_a_rollout_that_does_not_divide_into_groups_is_an_error(parts: Callable, tmp_path: Path) -> None:
    module, data = parts("ppo", credit=Credit(advantage="rloo", num_samples_per_prompt=3))
    with pytest.raises(UserError, match="rollout_batch_size=16 is not divisible by num_samples_per_prompt=3"):
        trainer(tmp_path).fit(module, data)


def test_impossible_settings_are_named_all_at_once(parts: Callable) -> None:
    settings = {"lr": -1.0, "ppo_epochs": 0, "kl_coef": -0.1, "ptx_coef": -1.0, "refresh_reference_every": -1}
    with pytest.raises(UserError) as caught:
        parts("ppo", **settings)
    named = [line.split(":")[0] for line in str(caught.value).splitlines()]
    # Numbers that must not be negative are checked before counts that must be positive.
    first = [name for name in settings if name != "ppo_epochs"]
    assert named == [f"{name}={settings[name]}" for name in [*first, "ppo_epochs"]]
