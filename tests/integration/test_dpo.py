"""DPO with a plain Lightning trainer: its first metrics, what it learns, and what it leaves unchanged."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from support import Recorder, trainer

from lightning_rlhf import DPOModule, ModelSource, PreferenceDataModule, Renderer, TextReward, load_causal_lm
from lightning_rlhf.data.batches import PairBatch, PromptBatch
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.forward import response_logprobs
from lightning_rlhf.modules.dpo import as_sequences
from lightning_rlhf.modules.optim import Optim

CHATML = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
EVALUATE = {"limit_val_batches": 1.0, "num_sanity_val_steps": -1}


def validated(module: DPOModule, data: PreferenceDataModule, folder: Path) -> dict[str, float]:
    """Returns the held-out metrics of a module as it is."""
    judge = trainer(folder, limit_val_batches=1.0)
    judge.validate(module, data, verbose=False)
    return {name.removeprefix("val/"): float(value) for name, value in judge.callback_metrics.items()}


def batch_of(data: PreferenceDataModule, folder: Path) -> PairBatch:
    data.trainer = trainer(folder)
    data.setup("fit")
    return next(iter(data.make_train_loader()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_before_training_actor_and_reference_are_one(
    source: ModelSource, dtype: str, parts: Callable, tmp_path: Path
) -> None:
    net = partial(load_causal_lm, replace(source, dtype=dtype))
    metrics = validated(*parts("dpo", actor=net, reference=net), tmp_path)
    assert metrics["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert metrics["kl"] == metrics["reward_margin"] == metrics["chosen_reward"] == metrics["rejected_reward"] == 0
    # All pairs are ties at the start.
    assert metrics["reward_accuracy"] == 0.5
    assert metrics["longer_wins_accuracy"] + metrics["shorter_wins_accuracy"] == pytest.approx(1)


@pytest.mark.parametrize("template", [None, "raw", CHATML])
def test_the_log_prob_of_an_answer_is_that_of_its_learnt_tokens(
    source: ModelSource, template: str | None, data: dict[str, str], tmp_path: Path
) -> None:
    renderer = Renderer(source.load_tokenizer(), template)
    module = PreferenceDataModule(data["preferences"], renderer, minibatch_size=8, val_fraction=0.1)
    batch, net = batch_of(module, tmp_path), load_causal_lm(source).eval()
    logprobs = response_logprobs(net, as_sequences(batch))
    rendered = {
        tuple(row.ids.tolist()): row.loss_mask for pair in module.train_rows for row in (pair.chosen, pair.rejected)
    }
    for ids, mask, logprob in zip(batch.input_ids, batch.attention_mask, logprobs, strict=True):
        tokens = ids[mask]
        learnt = torch.tensor(rendered[tuple(tokens.tolist())])
        # One row without padding, with the whole vocabulary at each position.
        steps = net(tokens[None]).logits[0, :-1].log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
        assert tokens[-1] == renderer.tokenizer.eos_token_id
        assert float(logprob) == pytest.approx(float(steps[learnt[1:]].sum()), abs=1e-4)


def test_the_loss_is_that_of_the_implicit_rewards(source: ModelSource, parts: Callable, tmp_path: Path) -> None:
    other = partial(load_causal_lm, replace(source, seed=2))
    module, data = parts("dpo", reference=other, beta=0.3)
    batch = batch_of(data, tmp_path)
    module.configure_model()
    losses, measures = module.losses(batch)
    # beta · (log p_actor - log p_reference) of each answer, chosen answers first.
    sequences = as_sequences(batch)
    rewards = 0.3 * (response_logprobs(module.actor, sequences) - response_logprobs(other(), sequences))
    torch.testing.assert_close(torch.cat([measures["chosen_reward"], measures["rejected_reward"]]), rewards.detach())
    torch.testing.assert_close(losses, torch.nn.functional.softplus(-measures["reward_margin"]))
    right = (measures["chosen_reward"] > measures["rejected_reward"]).float()
    assert measures["reward_accuracy"].tolist() == right.tolist()
    assert not any(weight.requires_grad for weight in module.reference.parameters())


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_eight_parts_of_one_pair_give_the_gradient_of_one_part_of_eight(
    source: ModelSource, loss: str, parts: Callable, tmp_path: Path
) -> None:
    weights = []
    for parts_of_minibatch in (1, 8):
        optim = Optim(optimizer=partial(torch.optim.SGD, lr=0.0), weight_decay=0.0)
        module, data = parts("dpo", loss=loss, lr=0.1, optim=optim)
        trainer(tmp_path, max_steps=1, accumulate_grad_batches=parts_of_minibatch).fit(module, data)
        weights.append(module.actor.state_dict())
    start = load_causal_lm(source).state_dict()
    for name, whole in weights[0].items():
        torch.testing.assert_close(weights[1][name] - start[name], whole - start[name], rtol=1e-3, atol=1e-6, msg=name)
    assert any((whole - start[name]).abs().max() > 1e-3 for name, whole in weights[0].items())


def trained(parts: Callable, folder: Path, **settings: Any) -> dict[str, float]:
    """Returns the validation metrics after some epochs, on the training pairs."""
    module, data = parts("dpo", **settings)
    data.val_path = data.path
    fitted = trainer(folder, max_epochs=3, **EVALUATE)
    fitted.fit(module, data)
    return {name.removeprefix("val/"): float(value) for name, value in fitted.callback_metrics.items()}


def test_training_parts_the_rewards_and_a_larger_beta_stays_nearer_to_the_reference(
    parts: Callable, tmp_path: Path
) -> None:
    loose, tight = trained(parts, tmp_path), trained(parts, tmp_path, beta=3.0)
    assert loose["reward_accuracy"] > 0.8
    assert loose["loss"] < 0.6
    assert loose["reward_margin"] == pytest.approx(loose["chosen_reward"] - loose["rejected_reward"], abs=1e-5)
    assert 0 < tight["kl"] < loose["kl"] / 2


def test_without_a_reference_there_is_no_second_net_and_the_loss_is_of_log_probs_alone(
    source: ModelSource, parts: Callable, tmp_path: Path
) -> None:
    recorder = Recorder()
    module, data = parts("dpo", reference=None, reference_free=True, beta=0.02)
    trainer(tmp_path, recorder, max_steps=1).fit(module, data)
    assert {name for name, _ in module.named_children()} == {"actor"}
    fresh, data = parts("dpo")
    chosen, rejected = response_logprobs(load_causal_lm(source), as_sequences(batch_of(data, tmp_path))).chunk(2)
    expected = torch.nn.functional.softplus(-0.02 * (chosen - rejected)).mean()
    assert recorder.losses == [pytest.approx(float(expected), rel=1e-5)]
    assert "kl" not in validated(module, data, tmp_path)


def test_only_the_actor_moves_and_only_it_is_in_checkpoints(parts: Callable, tmp_path: Path) -> None:
    module, data = parts("dpo")
    module.configure_model()
    before = copy.deepcopy(module.state_dict())
    fitted = trainer(tmp_path, max_epochs=1)
    fitted.fit(module, data)
    fitted.save_checkpoint(tmp_path / "dpo.ckpt")
    moved = {name.split(".")[0] for name, weight in module.state_dict().items() if not weight.equal(before[name])}
    kept = torch.load(tmp_path / "dpo.ckpt", weights_only=True)["state_dict"]
    assert moved == {name.split(".")[0] for name in kept} == {"actor"}


def test_a_resumed_run_still_compares_with_the_answers_before_training(parts: Callable, tmp_path: Path) -> None:
    gold = TextReward(lambda prompts, responses: [len(response) / 100 for response in responses])

    def rates(*callbacks: Any, checkpoint: str | None = None, **settings: Any) -> float:
        fitted = trainer(tmp_path, *callbacks, **EVALUATE, **settings)
        fitted.fit(*parts("dpo", gold=gold), ckpt_path=checkpoint)
        return float(fitted.callback_metrics["val/gold_win_rate"])

    whole = rates(max_epochs=3)
    save = ModelCheckpoint(tmp_path / "saved", filename="last", save_on_train_epoch_end=True)
    rates(save, max_epochs=2, enable_checkpointing=True)
    assert rates(max_epochs=3, checkpoint=str(tmp_path / "saved" / "last.ckpt")) == whole != 0.5


def test_the_prompts_to_answer_are_those_of_held_out_pairs_unless_a_file_has_others(
    data: dict[str, str], renderer: Renderer, tmp_path: Path
) -> None:
    def prompts(**settings: Any) -> list[str]:
        module = PreferenceDataModule(data["preferences"], renderer, minibatch_size=8, val_fraction=0.2, **settings)
        batch_of(module, tmp_path)
        loaders = module.val_dataloader()
        assert isinstance(next(iter(loaders[0])), PairBatch)
        batches: list[PromptBatch] = [batch for loader in loaders[1:] for batch in loader]
        return [text for batch in batches for text in batch.texts]

    held_out = prompts(answer_prompts=True)
    module = PreferenceDataModule(data["preferences"], renderer, minibatch_size=8, val_fraction=0.2)
    batch_of(module, tmp_path)
    trained_on = {prompt.text for prompt in module.reference_prompts(len(module.train_rows))}
    assert held_out
    assert len(held_out) == len(set(held_out))
    assert not trained_on & set(held_out)
    assert len(prompts(answer_prompts=True, prompts_held_out=data["prompts"])) == 40
    assert prompts() == []


def test_impossible_values_are_named_all_at_once(renderer: Renderer) -> None:
    with pytest.raises(UserError) as error:
        DPOModule(actor=lambda: None, renderer=renderer, loss="hinge", beta=0, label_smoothing=0.5, lr=-1)
    assert str(error.value).splitlines() == [
        "loss=hinge: must be one of sigmoid, ipo",
        "beta=0: must be positive",
        "label_smoothing=0.5: must lie in [0, 0.5)",
        "reference=None: must be given unless reference_free",
        "lr=-1: must not be negative",
    ]


def test_a_reference_that_is_the_actor_or_of_another_dtype_is_refused(source: ModelSource, renderer: Renderer) -> None:
    actor = load_causal_lm(source)
    with pytest.raises(ValueError, match="pass a copy"):
        DPOModule(actor=actor, reference=actor, renderer=renderer)
    module = DPOModule(
        actor=actor, reference=partial(load_causal_lm, replace(source, dtype="bfloat16")), renderer=renderer
    )
    with pytest.raises(UserError, match=r"reference: its weights are torch.bfloat16 and the actor's torch.float32"):
        module.configure_model()
