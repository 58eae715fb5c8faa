"""One model that plays four roles gives what four models give."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Answers, Scores, Sequences
from lightning_rlhf.models.adapters.active import activated, adapter_layers
from lightning_rlhf.models.adapters.lora import ADAPTER, Lora
from lightning_rlhf.models.adapters.merging import plain_net
from lightning_rlhf.models.adapters.scalar import AdapterScalar
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.export import export_model
from lightning_rlhf.models.roles import SeparateRoles
from lightning_rlhf.models.scalar import ScalarModel, load_reward_model, load_scalar_model
from lightning_rlhf.models.shared import CRITIC, Shared, SharedRoles, shared_roles
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rewards.build import AdapterReward, as_reward
from lightning_rlhf.rewards.net import NetReward

MakeSource = Callable[..., ModelSource]
MakeSequences = Callable[..., Sequences]
FAMILIES = ("gpt2", "llama", "opt", "bloom", "gpt_neox")


def drawn(net: nn.Module, seed: int) -> None:
    """Draws the numbers in adapters and heads that are 0."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if ".lora_" in name:
                weight.normal_(std=0.3)


def no_scores(answers: Answers) -> Scores:
    return Scores(torch.zeros(len(answers.responses)), {})


@pytest.fixture
def reward_folder(tmp_path: Path) -> Callable[[ModelSource], Path]:
    """Exports a reward model that was trained as an adapter."""

    def make(source: ModelSource) -> Path:
        model = load_scalar_model(replace(source, seed=source.seed, adapter=Lora(rank=3)), "normal")
        drawn(model.net, 5)
        nn.init.constant_(model.bias, 0.25)
        return export_model(model, Renderer(source.load_tokenizer()), tmp_path / "reward" / "model", {})

    return make


def of(
    source: ModelSource,
    folder: Path | None = None,
    *,
    lora: Lora | None = None,
    with_critic: bool = True,
    **how: Any,
) -> SharedRoles:
    """Builds one model for four roles; `drawn` makes all its adapters different."""
    torch.manual_seed(1)
    adapted = replace(source, adapter=lora or Lora(rank=2))
    renderer = Renderer(source.load_tokenizer(), "plain")
    reward = no_scores if folder is None else None

    def make_reward(backbone: Any) -> Any:
        return reward or as_reward(AdapterReward(str(folder), "plain"), renderer, backbone)

    roles = shared_roles(Shared(partial(load_causal_lm, adapted), **how), make_reward, with_critic=with_critic)
    return roles.eval()


def separated(roles: SharedRoles, source: ModelSource) -> SeparateRoles:
    """Builds four models with the same weights and without adapters."""
    net = roles.backbone.net

    def merged(adapter: str | None) -> Any:
        with activated(net, adapter):
            return plain_net(net)

    def scalar(part: AdapterScalar) -> ScalarModel:
        model = load_scalar_model(replace(source, adapter=None), "zero")
        with torch.no_grad():
            weights = dict(merged(part.adapter).base_model.named_parameters())
            for name, weight in model.net.base_model.named_parameters():
                weight.copy_(weights[name])
            model.head.weight.copy_(part.head.weight)
            model.bias.copy_(part.bias)
        return model

    reward: Any = roles.reward
    assert roles.critic is not None
    return SeparateRoles(
        actor=merged(ADAPTER),
        reference=merged(roles.reference),
        critic=scalar(roles.critic),
        reward=NetReward(scalar(reward.net)),
    ).eval()


@pytest.fixture
def sequences(make_sequences: MakeSequences) -> Sequences:
    return make_sequences([[3, 9, 4], [5]], [[8, 11, 2], [12, 2]], left=1, right=1)


def answers(sequences: Sequences) -> Answers:
    return Answers(sequences, ["", ""], ["", ""], [{}, {}])


def said(roles: Any, sequences: Sequences) -> dict[str, Tensor]:
    """Returns everything that PPO asks of its roles."""
    with torch.no_grad():
        stats = roles.actor_stats(sequences, temperature=0.7, entropy=True)
        return {
            "logprobs": stats.logprobs,
            "entropy": stats.entropy,
            "ref_logprobs": roles.ref_logprobs(sequences, temperature=0.7),
            "kl": roles.exact_kl(sequences, temperature=0.7),
            "values": roles.values(sequences),
            "scores": roles.scores(answers(sequences)).total,
            "labels": roles.label_logprobs(sequences.input_ids, sequences.attention_mask, sequences.attention_mask),
        }


@pytest.mark.parametrize("reference", ["base", "adapter"])
@pytest.mark.parametrize(("family", "lora"), [*((name, Lora(rank=2)) for name in FAMILIES), ("llama", Lora(dora=True))])
def test_each_role_gives_what_a_net_of_its_own_gives(
    family: str, lora: Lora, reference: str, make_source: MakeSource, reward_folder: Callable, sequences: Sequences
) -> None:
    source = make_source(family)
    roles = of(source, reward_folder(source), lora=lora, reference=reference, critic_head="normal")
    drawn(roles.backbone.net, 6)
    found, expected = said(roles, sequences), said(separated(roles, source), sequences)
    for name, tensor in expected.items():
        assert_close(found[name], tensor, atol=1e-5, rtol=1e-5, msg=name)
    different = [found[name] for name in ("logprobs", "ref_logprobs", "values")]
    assert min(float((a - b).abs().max()) for i, a in enumerate(different) for b in different[:i]) > 0.1


def test_an_adapter_scores_as_the_exported_model_does(
    make_source: MakeSource, reward_folder: Callable, sequences: Sequences
) -> None:
    source = make_source("llama")
    folder = reward_folder(source)
    with torch.no_grad():
        expected = load_reward_model(str(folder)).eval().scores(sequences.input_ids, sequences.attention_mask)
        found = of(source, folder).scores(answers(sequences)).total
    assert_close(found, expected, atol=1e-5, rtol=1e-5)


def gradients(roles: SharedRoles, sequences: Sequences) -> dict[str, Tensor]:
    """Returns the gradients of a loss of actor and critic, by the names of the weights."""
    roles.train()
    logprobs = roles.actor_stats(sequences, temperature=0.7).logprobs
    values = roles.values(sequences)
    assert values is not None
    (logprobs.square().mean() + values.square().mean()).backward()
    return {name: weight.grad for name, weight in roles.named_parameters() if weight.grad is not None}


def test_actor_and_critic_are_trained_and_nothing_else(
    make_source: MakeSource, reward_folder: Callable, sequences: Sequences
) -> None:
    source = make_source("llama")
    roles = of(source, reward_folder(source), reference="adapter", critic_head="normal")
    drawn(roles.backbone.net, 6)
    with_gradient = gradients(roles, sequences).keys()
    names = {weight: name for name, weight in roles.named_parameters()}
    trainable = {
        role: {names[weight] for weight in weights.parameters()} for role, weights in roles.trainable().items()
    }
    assert with_gradient == trainable["actor"] | trainable["critic"]
    assert {name for name, weight in roles.named_parameters() if weight.requires_grad} == with_gradient
    assert all(".default." in name for name in trainable["actor"])
    assert {name for name in trainable["critic"] if ".critic." not in name} == {"critic.head.weight", "critic.bias"}
    adapted = sum(".lora_A.default." in name for name in names.values())
    # There are two matrices for each layer, and the head.
    assert [len(weights) for weights in trainable.values()] == [2 * adapted, 2 * adapted + 2]
    before = said(roles.eval(), sequences)
    with torch.no_grad():
        for weight in roles.parameters():
            if weight.grad is not None:
                weight.sub_(weight.grad)
    after = said(roles, sequences)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"logprobs", "entropy", "kl", "values", "labels"}


def test_blocks_that_are_computed_again_give_the_same_gradients(make_source: MakeSource, sequences: Sequences) -> None:
    found = []
    for again in (False, True):
        roles = of(replace(make_source("llama"), gradient_checkpointing=again), critic_head="normal")
        drawn(roles.backbone.net, 6)
        found.append(gradients(roles, sequences))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert gradient.any(), name
        assert_close(found[1][name], gradient, msg=name)


def test_a_reference_that_is_refreshed_is_the_actor_of_then(make_source: MakeSource, sequences: Sequences) -> None:
    roles = of(make_source("llama"), reference="adapter")
    drawn(roles.backbone.net, 6)
    expected = roles.actor_stats(sequences, temperature=1.0).logprobs
    assert not torch.allclose(roles.ref_logprobs(sequences, temperature=1.0), expected)
    roles.refresh_reference()
    assert_close(roles.ref_logprobs(sequences, temperature=1.0), expected)
    drawn(roles.backbone.net, 7)
    with pytest.raises(UserError, match="cannot change"):
        of(make_source("llama")).refresh_reference()


def test_what_is_exported_is_the_actor(make_source: MakeSource, sequences: Sequences) -> None:
    roles = of(make_source("llama"), reference="adapter")
    drawn(roles.backbone.net, 6)
    roles.values(sequences)
    # In fp32 each side is off by up to 3e-4 from double precision, because the weights of the model are so large.
    roles.backbone.double()
    plain = plain_net(roles.exported()).eval()
    ids = sequences.input_ids
    with torch.no_grad():
        assert_close(plain(ids).logits, roles.generator()(input_ids=ids).logits)


@pytest.mark.parametrize(("init", "head"), [(None, "zero"), ("reward", "trained"), ("policy", "zero")])
def test_the_critic_starts_as_it_is_told(
    init: Any, head: Any, make_source: MakeSource, reward_folder: Callable, sequences: Sequences
) -> None:
    source = make_source("llama")
    roles = of(source, reward_folder(source), critic_init=init, critic_head=head)
    model: Any = roles.reward
    assert roles.critic is not None
    ids, mask = sequences.input_ids, sequences.attention_mask
    with torch.no_grad():
        with activated(roles.backbone, ADAPTER if init == "policy" else model.net.adapter):
            hidden = roles.backbone(hidden=True, input_ids=ids).last_hidden_state
        with activated(roles.backbone, roles.critic.adapter):
            assert torch.equal(roles.backbone(hidden=True, input_ids=ids).last_hidden_state, hidden)
        expected = model.net(ids, mask) if head == "trained" else torch.zeros_like(model.net(ids, mask))
        assert torch.equal(roles.critic(ids, mask), expected)
    assert roles.critic.head.weight is not model.net.head.weight


def test_a_net_without_adapters_cannot_play_all_roles(make_source: MakeSource) -> None:
    with pytest.raises(UserError, match="adapter=lora"):
        shared_roles(Shared(partial(load_causal_lm, make_source())), lambda _: no_scores, with_critic=True)


def test_a_critic_cannot_start_from_a_reward_that_is_elsewhere(make_source: MakeSource) -> None:
    with pytest.raises(UserError, match="critic_init=reward"):
        of(make_source(), critic_init="reward")


def test_without_a_critic_there_is_none(make_source: MakeSource, sequences: Sequences) -> None:
    roles = of(make_source(), with_critic=False)
    assert roles.values(sequences) is None
    assert roles.trainable().keys() == {"actor"}
    assert not any(f".{CRITIC}." in name for name, _ in roles.named_parameters())


def test_an_adapter_of_another_net_is_refused(make_source: MakeSource, reward_folder: Callable) -> None:
    folder = reward_folder(make_source("llama"))
    config = folder.with_name("adapter") / "adapter_config.json"
    config.write_text(
        config.read_text().replace('"base_model_name_or_path": null', '"base_model_name_or_path": "org/net"')
    )
    with pytest.raises(UserError, match=r"the adapter belongs to org/net"):
        of(make_source("llama"), folder)


def test_an_adapter_without_a_head_is_no_reward_model(make_source: MakeSource, tmp_path: Path) -> None:
    source = make_source("llama")
    net = load_causal_lm(replace(source, adapter=Lora()))
    export_model(net, Renderer(source.load_tokenizer()), tmp_path / "model", {})
    with pytest.raises(UserError, match="no head"):
        of(source, tmp_path / "model")


def test_without_one_net_an_adapter_scores_nothing(make_source: MakeSource) -> None:
    renderer = Renderer(make_source().load_tokenizer(), "plain")
    with pytest.raises(UserError, match="needs a model that plays all roles"):
        as_reward(AdapterReward("somewhere"), renderer)


@pytest.mark.parametrize("method", ["nf4", "fp4"])
def test_a_quantized_net_plays_all_roles(
    method: str, make_source: MakeSource, reward_folder: Callable, sequences: Sequences
) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra bitsandbytes")
    source = replace(make_source("llama"), quantization=method)
    roles = of(source, reward_folder(source), critic_head="normal")
    drawn(roles.backbone.net, 6)
    found, expected = said(roles, sequences), said(separated(roles, replace(source, quantization=None)), sequences)
    for name, tensor in expected.items():
        assert_close(found[name], tensor, atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize("method", ["nf4", "fp4", "int8"])
def test_a_quantized_net_that_plays_all_roles_says_what_four_quantized_nets_say(
    method: str, make_source: MakeSource, reward_folder: Callable, sequences: Sequences
) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra bitsandbytes")
    source = replace(make_source("llama"), quantization=method)
    roles = of(source, reward_folder(source), critic_head="normal")
    drawn(roles.backbone.net, 6)

    def alone(adapter: str | None) -> Any:
        net = copy.deepcopy(roles.backbone.net)
        for layer in adapter_layers(net):
            layer._active_adapter = [] if adapter is None else [adapter]
        return net

    def scalar(part: AdapterScalar) -> AdapterScalar:
        return AdapterScalar(Backbone(alone(None)), part.adapter, part.head.weight, float(part.bias))

    reward: Any = roles.reward
    assert roles.critic is not None
    separate = SeparateRoles(
        actor=alone(ADAPTER),
        reference=alone(None),
        critic=scalar(roles.critic),  # type: ignore[arg-type]
        reward=NetReward(scalar(reward.net)),
    ).eval()
    found = said(roles, sequences)
    for name, tensor in said(separate, sequences).items():
        assert_close(found[name], tensor, atol=1e-5, rtol=1e-5, msg=name)
