"""The four roles: which are frozen, and what log-probs they give."""

import copy
from collections.abc import Callable
from dataclasses import replace

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import PreTrainedModel

from lightning_rlhf.distributed.phases import rollout_phase
from lightning_rlhf.experience import Answers, Scores, Sequences
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.roles import SeparateRoles, build
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rewards.net import NetReward

MakeNet = Callable[..., PreTrainedModel]
MakeScalarModel = Callable[..., ScalarModel]


@pytest.fixture
def make_roles(make_causal_lm: MakeNet, make_scalar_model: MakeScalarModel) -> Callable[[ModelSource], SeparateRoles]:
    def make(source: ModelSource) -> SeparateRoles:
        return SeparateRoles(
            actor=make_causal_lm(source),
            reference=make_causal_lm(source, seed=2),
            critic=make_scalar_model(source),
            reward=NetReward(make_scalar_model(source, seed=3)),
        )

    return make


@pytest.fixture
def roles(make_source: Callable[..., ModelSource], make_roles: Callable[[ModelSource], SeparateRoles]) -> SeparateRoles:
    return make_roles(make_source("gpt2"))


def test_only_actor_and_critic_are_trained(roles: SeparateRoles) -> None:
    trained = {name.split(".")[0] for name, parameter in roles.named_parameters() if parameter.requires_grad}
    frozen = {name.split(".")[0] for name, parameter in roles.named_parameters() if not parameter.requires_grad}
    assert trained == set(roles.trainable()) == {"actor", "critic"}
    assert frozen == set(roles.frozen()) == {"reference", "reward"}


def test_frozen_nets_are_in_evaluation_mode(roles: SeparateRoles) -> None:
    SeparateRoles(**{name: net.train() for name, net in roles.named_children()})
    assert roles.actor.training
    assert roles.critic.training
    assert not any(module.training for name in roles.frozen() for module in roles.get_submodule(name).modules())


def test_the_actor_is_not_its_own_reference(roles: SeparateRoles) -> None:
    with pytest.raises(ValueError, match="actor and reference are the same object"):
        SeparateRoles(actor=roles.actor, reference=roles.actor, critic=roles.critic, reward=roles.reward)


def test_the_critic_is_not_the_reward_model(roles: SeparateRoles) -> None:
    with pytest.raises(ValueError, match="critic and reward are the same object"):
        SeparateRoles(actor=roles.actor, reference=roles.reference, critic=roles.reward.net, reward=roles.reward)


def test_a_reward_may_be_a_function_which_is_no_submodule(
    roles: SeparateRoles, make_sequences: Callable[..., Sequences]
) -> None:
    def lengths(answers: Answers) -> Scores:
        return Scores(answers.sequences.response_mask.sum(1).float(), {})

    without = SeparateRoles(actor=roles.actor, reference=roles.reference, critic=roles.critic, reward=lengths)
    answers = Answers(make_sequences([[3], [4]], [[5, 6], [7]]), ["", ""], ["", ""], [{}, {}])
    assert without.scores(answers).total.tolist() == [2.0, 1.0]
    assert without.frozen() == ("reference",)
    assert {name for name, _ in without.named_children()} == {"actor", "critic", "reference"}


def test_without_a_critic_the_actor_alone_is_trained(
    roles: SeparateRoles, make_sequences: Callable[..., Sequences]
) -> None:
    without = SeparateRoles(actor=roles.actor, reference=roles.reference, reward=roles.reward)
    assert without.trainable() == {"actor": roles.actor}
    assert without.values(make_sequences([[3]], [[4]])) is None
    assert not [name for name, _ in without.named_parameters() if name.startswith("critic")]


def test_scores_and_values_come_from_the_reward_net_and_the_critic(
    roles: SeparateRoles, make_sequences: Callable[..., Sequences]
) -> None:
    sequences = make_sequences([[3, 4], [5]], [[6], [8, 9]], left=2)
    scores = roles.scores(Answers(sequences, ["", ""], ["", ""], [{}, {}]))
    assert_close(scores.total, roles.reward.net.scores(sequences.input_ids, sequences.attention_mask))
    assert not scores.parts
    assert_close(roles.values(sequences), roles.critic.values(sequences))


@torch.no_grad()
def test_a_refreshed_reference_is_the_actor_of_that_moment(
    roles: SeparateRoles, make_sequences: Callable[..., Sequences]
) -> None:
    sequences = make_sequences([[3, 4], [5]], [[6], [8, 9]])

    def kl() -> torch.Tensor:
        return roles.exact_kl(sequences, temperature=1.0)[sequences.response_mask]

    assert kl().min() > 0.1
    actor = copy.deepcopy(roles.actor)
    roles.refresh_reference()
    assert_close(kl(), torch.zeros(3), atol=1e-6, rtol=0)
    assert all(map(torch.equal, roles.actor.state_dict().values(), actor.state_dict().values()))
    assert not any(parameter.requires_grad for parameter in roles.reference.parameters())
    # The actor is trained, and the reference does not change.
    for parameter in roles.actor.parameters():
        parameter.mul_(1.5)
    assert kl().min() > 0.1


def test_entropy_is_computed_only_when_it_is_asked_for(
    roles: SeparateRoles, make_sequences: Callable[..., Sequences]
) -> None:
    sequences = make_sequences([[3, 4]], [[5, 6]])
    assert roles.actor_stats(sequences, temperature=1.0, entropy=False).entropy is None
    stats = roles.actor_stats(sequences, temperature=1.0, entropy=True)
    assert stats.logprobs.requires_grad
    assert stats.entropy.requires_grad


def test_build_takes_a_net_or_its_function_and_gives_it_in_training_mode() -> None:
    net = nn.Linear(1, 1).eval()
    assert build(net) is net
    assert net.training
    net.eval()
    assert build(lambda: net) is net
    assert net.training


def test_a_rollout_phase_restores_every_mode_even_after_an_error(roles: SeparateRoles) -> None:
    roles.train()
    roles.reward.eval()
    before = {name: module.training for name, module in roles.named_modules()}

    def fail() -> None:
        with rollout_phase(pl.Trainer(accelerator="cpu", logger=False), roles):
            assert not any(module.training for module in roles.modules())
            assert not torch.is_grad_enabled()
            raise RuntimeError("in the phase")

    with pytest.raises(RuntimeError, match="in the phase"):
        fail()
    assert {name: module.training for name, module in roles.named_modules()} == before
    assert torch.is_grad_enabled()


def test_two_nets_from_one_source_of_random_weights_are_equal(make_source: Callable[..., ModelSource]) -> None:
    source = make_source("llama")
    first, second = load_causal_lm(source), load_causal_lm(source)
    other = load_causal_lm(replace(source, seed=4))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name])
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
