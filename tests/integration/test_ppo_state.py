"""State that PPO carries from one iteration to the next, and texts that it mixes in."""

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from support import OwnWeights, Recorder, Watch, trainer
from torch import Tensor
from torch.testing import assert_close

from lightning_rlhf import Renderer, TextReward
from lightning_rlhf.callbacks import AdaptiveKL
from lightning_rlhf.data.ptx import read_ptx
from lightning_rlhf.errors import UserError
from lightning_rlhf.modules.optim import Optim
from lightning_rlhf.ops.moments import Moments
from lightning_rlhf.rewards.build import WeightedSum
from lightning_rlhf.rollout import collect
from lightning_rlhf.rollout.credit import Credit
from lightning_rlhf.rollout.shaping import RewardShaping
from lightning_rlhf.seeding import PTX, endless

RLOO = Credit(advantage="rloo", num_samples_per_prompt=4)
NORMALIZED = Credit(shaping=RewardShaping(normalize=True, clip=1.5))
LENGTH = TextReward(lambda prompts, responses: [len(response) / 10 for response in responses])


@pytest.fixture
def texts(tmp_path: Path) -> str:
    """Plain texts."""
    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps({"text": f"My kettle leaks {n}."}) + "\n" for n in range(5))
    )
    return str(tmp_path / "texts.jsonl")


@pytest.mark.parametrize(
    ("settings", "last_step"),
    [
        ({"credit": RLOO}, None),
        ({"credit": NORMALIZED}, None),
        ({"ptx_coef": 0.5}, None),
        # After three of four iterations, the reference is the actor after the second.
        ({"refresh_reference_every": 2}, None),
        # This step is in the middle of the third iteration.
        ({"credit": RLOO, "ptx_coef": 0.5, "refresh_reference_every": 2}, 10),
        # This is the last step of the second iteration, before the reference changes.
        ({"credit": NORMALIZED, "refresh_reference_every": 2}, 8),
    ],
    ids=["rloo", "normalized", "ptx", "refreshed", "in an iteration", "before a refresh"],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    settings: dict[str, Any], last_step: int | None, parts: Callable, texts: str, tmp_path: Path
) -> None:
    def run(*callbacks: Any, ckpt_path: Path | None = None, **options: Any) -> tuple[list[float], Any]:
        recorder = Recorder()
        module, data = parts("ppo", **settings)
        if "ptx_coef" in settings:
            data.ptx_path = texts
        trainer(tmp_path, recorder, *callbacks, **options).fit(module, data, ckpt_path=ckpt_path)
        return recorder.losses, module

    whole, module = run(max_epochs=4)
    assert len(whole) == 16
    when = {"save_on_train_epoch_end": True} if last_step is None else {"every_n_train_steps": last_step}
    checkpoint = ModelCheckpoint(tmp_path / "kept", filename="{step}", save_top_k=-1, **when)
    run(checkpoint, max_epochs=3, enable_checkpointing=True)
    step = last_step or 12
    rest, resumed = run(max_epochs=4, ckpt_path=tmp_path / "kept" / f"step={step}.ckpt")
    assert rest == whole[step:]
    for name, weight in module.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    assert resumed.moments == module.moments
    assert module.moments.num_values == 64


def test_an_adapted_kl_weight_holds_from_the_next_iteration_on_in_a_resumed_run_too(
    parts: Callable, tmp_path: Path
) -> None:
    credit = Credit(advantage="rloo", num_samples_per_prompt=4, kl_in="loss", kl_estimator="k2")

    def run(*callbacks: Any, ckpt_path: Path | None = None, **options: Any) -> list[float]:
        recorder = Recorder()
        module, data = parts("ppo", credit=credit)
        trainer(tmp_path, recorder, *callbacks, max_epochs=2, **options).fit(module, data, ckpt_path=ckpt_path)
        return recorder.losses

    fixed = run()
    checkpoint = ModelCheckpoint(tmp_path / "kept", filename="{step}", save_top_k=-1, every_n_train_steps=2)
    adapted = run(AdaptiveKL(horizon=16), checkpoint, enable_checkpointing=True)
    # The first iteration has four updates, and its rollout was made with the initial weight.
    assert adapted[:4] == fixed[:4]
    assert all(new != old for new, old in zip(adapted[5:], fixed[5:], strict=True))
    # The run is resumed in the first iteration, when the module has the weight of the second already.
    assert run(AdaptiveKL(horizon=16), ckpt_path=tmp_path / "kept" / "step=2.ckpt") == adapted[2:]


def test_every_response_says_how_many_steps_its_weights_had_made_in_a_resumed_run_too(
    parts: Callable, tmp_path: Path
) -> None:
    def versions(*callbacks: Any, ckpt_path: Path | None = None, **options: Any) -> list[list[int]]:
        watch = Watch()
        trainer(tmp_path, watch, *callbacks, **options).fit(*parts("ppo"), ckpt_path=ckpt_path)
        return [rollout.experience.weights_version.flatten().unique().tolist() for rollout in watch.rollouts]

    checkpoint = ModelCheckpoint(tmp_path / "kept", filename="{step}", save_top_k=-1, save_on_train_epoch_end=True)
    # An iteration has two minibatches that are read twice, which makes four steps.
    assert versions(checkpoint, max_epochs=2, enable_checkpointing=True) == [[0], [4]]
    assert versions(max_epochs=4, ckpt_path=tmp_path / "kept" / "step=8.ckpt") == [[8], [12]]


def test_an_engine_with_weights_of_its_own_draws_what_the_net_itself_draws(
    parts: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(**settings: Any) -> list[float]:
        recorder = Recorder()
        trainer(tmp_path, recorder, max_epochs=3).fit(*parts("ppo", **settings))
        return recorder.losses

    # The actor scores what an engine with weights of its own has drawn, and so it does here for both.
    monkeypatch.setattr(collect, "may_stand_in", lambda *_: False)
    assert run(engine=partial(OwnWeights, micro_batch_size=8)) == run()


def test_a_run_stops_before_its_update_if_the_engine_has_other_weights(parts: Callable, tmp_path: Path) -> None:
    class Other(OwnWeights):
        @torch.no_grad()
        def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
            super().update_weights(weights, version)
            # The weights of the update that comes third are lost.
            if version == 8:
                self.net.get_output_embeddings().weight.mul_(30)

    recorder = Recorder()
    with pytest.raises(UserError, match="times the probability with which the engine drew them"):
        trainer(tmp_path, recorder, max_epochs=3).fit(*parts("ppo", engine=Other))
    assert len(recorder.losses) == 8


def test_scores_are_normalised_by_all_responses_so_far(parts: Callable, tmp_path: Path) -> None:
    watch = Watch()
    module, data = parts(
        "ppo",
        credit=Credit(advantage="reinforce_pp", shaping=RewardShaping(normalize=True)),
        reward=LENGTH,
        kl_coef=0.0,
    )
    fitted = trainer(tmp_path, watch, max_epochs=2)
    fitted.fit(module, data)
    seen = torch.tensor([], dtype=torch.float64)
    for rollout in watch.rollouts:
        seen = torch.cat([seen, rollout.scores.double()])
        expected = (rollout.scores - seen.mean()) / seen.std(correction=0)
        assert rollout.metrics["reward_mean"] == pytest.approx(float(expected.mean()), abs=1e-6)
    assert abs(watch.rollouts[1].metrics["reward_mean"]) > 1e-3
    fitted.save_checkpoint(tmp_path / "ppo.ckpt")
    kept = Moments(*torch.load(tmp_path / "ppo.ckpt", weights_only=True)["moments"])
    assert (kept.num_values, kept.mean) == (32, pytest.approx(float(seen.mean())))
    assert kept.std == pytest.approx(float(seen.std(correction=0)))


def test_parts_of_a_score_are_logged_by_their_names(parts: Callable, tmp_path: Path) -> None:
    watch = Watch()
    reward = WeightedSum(
        parts={"long": LENGTH, "one": TextReward(lambda prompts, responses: [1.0] * len(responses))},
        weights={"long": 2.0, "one": -0.5},
    )
    module, data = parts("ppo", reward=reward)
    trainer(tmp_path, watch).fit(module, data)
    (rollout,) = watch.rollouts
    assert rollout.metrics["score/one"] == 1.0
    assert rollout.metrics["score/long"] == pytest.approx(sum(map(len, rollout.responses)) / 160)
    assert rollout.metrics["score_mean"] == pytest.approx(2 * rollout.metrics["score/long"] - 0.5)


@pytest.mark.parametrize(("every", "refreshed"), [(0, set()), (1, {1, 2, 3}), (2, {2})])
def test_the_kl_is_0_again_right_after_the_reference_was_refreshed(
    every: int, refreshed: set[int], parts: Callable, tmp_path: Path
) -> None:
    watch = Watch()
    module, data = parts("ppo", refresh_reference_every=every, exact_kl=True)
    fitted = trainer(tmp_path, watch, max_epochs=4)
    fitted.fit(module, data)
    at_zero = {rollout.iteration for rollout in watch.rollouts if rollout.metrics["kl_exact"] < 1e-6}
    assert at_zero == {0} | refreshed
    assert all(abs(rollout.metrics["kl"]) < 1e-4 for rollout in watch.rollouts if rollout.iteration in at_zero)
    fitted.save_checkpoint(tmp_path / "ppo.ckpt")
    names = torch.load(tmp_path / "ppo.ckpt", weights_only=True)["state_dict"].keys()
    assert ("reference" in {name.split(".")[1] for name in names}) == bool(every)


def test_the_texts_enter_the_update_with_their_weight(parts: Callable, texts: str, tmp_path: Path) -> None:
    """An SGD step is the step without texts plus the weighted step of the texts, which a plain loop computes."""
    settings = {
        "credit": RLOO,
        "reward": LENGTH,
        "optim": Optim(optimizer=partial(torch.optim.SGD, lr=0.0), weight_decay=0.0),
        "minibatch_size": 16,
        "ppo_epochs": 1,
        "ptx_minibatch_size": 3,
        "lr": 0.1,
        "seed": 7,
    }
    module, data = parts("ppo", **settings)
    module.configure_model()
    loss, step = plain_step(module.roles.actor, texts, module.renderer)
    start = {name: weight.detach().clone() for name, weight in module.roles.actor.named_parameters()}
    trainer(tmp_path).fit(module, data)
    without = {name: weight.detach() for name, weight in module.roles.actor.named_parameters()}
    assert max(float((without[name] - start[name]).abs().max() / step[name].abs().max()) for name in step) > 0.1

    module, data = parts("ppo", ptx_coef=0.5, **settings)
    data.ptx_path = texts
    fitted = trainer(tmp_path)
    fitted.fit(module, data)
    assert float(fitted.callback_metrics["train/ptx_loss"]) == pytest.approx(loss, rel=1e-5)
    for name, weight in module.roles.actor.named_parameters():
        assert_close(weight.detach(), without[name] + 0.5 * step[name], atol=1e-6, rtol=1e-5)


def plain_step(actor: Any, texts: str, renderer: Renderer) -> tuple[float, dict[str, Tensor]]:
    """Returns the loss on the first three texts, one row at a time, and an SGD step of 0.1 on it."""
    rows = read_ptx(texts, renderer, 1024, "raise")
    chosen = [rows[place].ids.tolist() for place in endless(len(rows), 0, 3, 7, PTX)]
    logprobs = []
    for ids in map(torch.tensor, chosen):
        logprobs.append(actor(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None]))
    loss = -torch.cat(logprobs).mean()
    names, parameters = zip(*actor.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters)
    return loss.item(), {name: -0.1 * gradient for name, gradient in zip(names, gradients, strict=True)}


@pytest.mark.parametrize("kind", ["texts", "demonstrations"])
def test_parts_share_texts_so_that_accumulation_changes_no_weight(
    kind: str, parts: Callable, texts: str, data: dict[str, str], tmp_path: Path
) -> None:
    weights = []
    for accumulated in (1, 4):
        module, prompts = parts(
            "ppo", ptx_coef=1.0, optim=Optim(optimizer=partial(torch.optim.SGD, lr=0.0)), lr=0.1, critic_lr=0.0
        )
        prompts.ptx_path = {"texts": texts, **data}[kind]
        module.configure_model()
        start = {name: weight.clone() for name, weight in module.state_dict().items()}
        trainer(tmp_path, accumulate_grad_batches=accumulated).fit(module, prompts)
        weights.append(module.state_dict())
    moves = [float((weight - start[name]).abs().max()) for name, weight in weights[0].items()]
    apart = [float((weight - weights[1][name]).abs().max()) for name, weight in weights[0].items()]
    assert max(moves) > 0.01
    assert max(apart) < 2e-6


def test_texts_that_are_asked_for_and_not_given_are_an_error(parts: Callable, tmp_path: Path) -> None:
    module, data = parts("ppo", ptx_coef=0.1)
    with pytest.raises(UserError, match="ptx_coef=0.1, but there are no texts to mix in: give ptx_path"):
        trainer(tmp_path).fit(module, data)


def test_texts_without_a_weight_are_not_mixed_in(parts: Callable, texts: str, tmp_path: Path) -> None:
    module, data = parts("ppo")
    data.ptx_path = texts
    fitted = trainer(tmp_path)
    fitted.fit(module, data)
    assert "train/ptx_loss" not in fitted.callback_metrics
