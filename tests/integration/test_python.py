"""The modules with a plain Lightning trainer, without Hydra."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from support import Recorder, trainer

from lightning_rlhf import TextReward
from lightning_rlhf.distributed.checkpoint_files import WholeFiles
from lightning_rlhf.experience import Rollout
from lightning_rlhf.hooks import RLHFCallback

STAGES = ["sft", "reward", "ppo", "dpo"]


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_a_stage_learns(stage: str, parts: Callable, tmp_path: Path) -> None:
    recorder = Recorder()
    trainer(tmp_path, recorder, max_epochs=6).fit(*parts(stage))
    first, last = recorder.losses[:9], recorder.losses[-9:]
    assert sum(last) < 0.9 * sum(first)


def test_ppo_raises_a_reward_that_is_a_function(parts: Callable, tmp_path: Path) -> None:
    scores = []

    class Watch(RLHFCallback):
        def on_rollout_end(self, trainer: object, module: object, rollout: Rollout) -> None:
            scores.append(rollout.metrics["score_mean"])

    reward = TextReward(lambda prompts, responses: [-len(response) / 10 for response in responses])
    module, data = parts(
        "ppo",
        reward=reward,
        rollout_batch_size=64,
        minibatch_size=16,
        ppo_epochs=4,
        lr=1e-2,
        critic_lr=1e-2,
        kl_coef=0.0,
    )
    trainer(tmp_path, Watch(), max_epochs=15).fit(module, data)
    print(scores)
    assert sum(scores[-3:]) > sum(scores[:3]) + 1.5


def test_every_iteration_draws_other_responses_to_the_same_prompt(parts: Callable, tmp_path: Path) -> None:
    drawn: list[list[str]] = []

    class Watch(RLHFCallback):
        def on_rollout_end(self, trainer: object, module: object, rollout: Rollout) -> None:
            drawn.append(rollout.responses)

    module, data = parts("ppo", lr=0.0, critic_lr=0.0)
    data.setup("fit")
    data.train_prompts = data.train_prompts[:1]
    trainer(tmp_path, Watch(), max_epochs=2).fit(module, data)
    assert len(set(drawn[0] + drawn[1])) == 32


def test_the_first_update_of_an_iteration_has_ratio_one(parts: Callable, tmp_path: Path) -> None:
    module, data = parts("ppo", minibatch_size=16, ppo_epochs=1)
    fitted = trainer(tmp_path, max_epochs=1)
    fitted.fit(module, data)
    assert float(fitted.callback_metrics["train/approx_kl"]) < 1e-10
    assert float(fitted.callback_metrics["train/clip_fraction"]) == 0


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_rollout_is_scored_in_the_precision_of_the_update(precision: str, parts: Callable, tmp_path: Path) -> None:
    # All batches have one shape, since rounding in bf16 depends on the shape.
    module, data = parts("ppo", minibatch_size=16, rollout_micro_batch_size=16, ppo_epochs=1)
    fitted = trainer(tmp_path, max_epochs=1, precision=precision)
    fitted.fit(module, data)
    assert float(fitted.callback_metrics["train/approx_kl"]) < 1e-10


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_seed_gives_the_same_run(stage: str, parts: Callable, tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        recorder = Recorder()
        trainer(tmp_path, recorder, max_epochs=2).fit(*parts(stage))
        runs.append(recorder.losses)
    assert len(runs[0]) > 3
    assert runs[0] == runs[1]


@pytest.mark.parametrize("stage", STAGES)
def test_accumulated_parts_change_no_weight(stage: str, parts: Callable, tmp_path: Path) -> None:
    weights = []
    for accumulated in (1, 4):
        module, data = parts(stage)
        settings = {"accumulate_grad_batches": accumulated, "precision": "64-true"}
        trainer(tmp_path, max_epochs=1, **settings).fit(module, data)
        weights.append(module.state_dict())
    for name, whole in weights[0].items():
        # Adam divides by the size of a gradient, and so magnifies the rounding of those that are almost 0: in fp32,
        # weights differ by up to 4e-5. In double precision only scores are rounded, which are fp32; that leaves 1.3e-6.
        torch.testing.assert_close(weights[1][name], whole, rtol=0, atol=2e-6, msg=name)


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(stage: str, parts: Callable, tmp_path: Path) -> None:
    whole = Recorder()
    module, data = parts(stage)
    trainer(tmp_path, whole, max_epochs=4).fit(module, data)
    first, rest = Recorder(), Recorder()
    checkpoint = ModelCheckpoint(tmp_path / stage, filename="last", save_on_train_epoch_end=True)
    trainer(tmp_path, first, checkpoint, max_epochs=2, enable_checkpointing=True).fit(*parts(stage))
    resumed, data = parts(stage)
    trainer(tmp_path, rest, max_epochs=4).fit(resumed, data, ckpt_path=str(tmp_path / stage / "last.ckpt"))
    assert first.losses + rest.losses == whole.losses
    for name, weight in module.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_resumed_in_the_middle_of_an_epoch_sees_the_batches_that_were_left(
    stage: str, parts: Callable, tmp_path: Path
) -> None:
    whole = Recorder()
    module, data = parts(stage)
    trainer(tmp_path, whole, max_epochs=3).fit(module, data)
    step = len(whole.losses) // 3 + 2
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=step, save_top_k=-1)
    trainer(tmp_path, checkpoint, max_epochs=3, enable_checkpointing=True).fit(*parts(stage))
    rest = Recorder()
    resumed, data = parts(stage)
    trainer(tmp_path, rest, max_epochs=3).fit(resumed, data, ckpt_path=str(tmp_path / f"step={step}.ckpt"))
    assert rest.losses == whole.losses[step:]


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_takes_the_place_of_an_older_one_when_it_is_whole(
    stage: str, parts: Callable, tmp_path: Path
) -> None:
    module, data = parts(stage)
    fitted = trainer(tmp_path, fast_dev_run=1)
    fitted.fit(module, data)
    fitted.save_checkpoint(tmp_path / "last.ckpt")
    assert type(fitted.strategy.checkpoint_io) is WholeFiles


def test_a_checkpoint_of_ppo_leaves_out_the_frozen_nets(parts: Callable, tmp_path: Path) -> None:
    module, data = parts("ppo")
    fitted = trainer(tmp_path, max_epochs=1)
    fitted.fit(module, data)
    fitted.save_checkpoint(tmp_path / "ppo.ckpt")
    names = torch.load(tmp_path / "ppo.ckpt", weights_only=True)["state_dict"].keys()
    assert {name.split(".")[1] for name in names} == {"actor", "critic"}


def test_frozen_nets_do_not_move_and_trained_ones_do(parts: Callable, tmp_path: Path) -> None:
    module, data = parts("ppo")
    module.configure_model()
    before = copy.deepcopy(module.state_dict())
    trainer(tmp_path, max_epochs=1).fit(module, data)
    moved = {
        name.split(".")[1] for name, weight in module.state_dict().items() if not torch.equal(weight, before[name])
    }
    assert moved == {"actor", "critic"}
