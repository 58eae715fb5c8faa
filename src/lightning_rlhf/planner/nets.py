"""Builds the models of a stage on fake tensors: the real classes and the real builders, but no memory for weights."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightning_rlhf.distributed.blocks import blocks
from lightning_rlhf.distributed.half_precision import cast_weights
from lightning_rlhf.experience import Answers, Scores
from lightning_rlhf.models.adapters.lora import inject, is_part_of_adapter
from lightning_rlhf.models.adapters.scalar import AdapterScalar
from lightning_rlhf.models.arranged import arrangeable
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.column_cache import is_supported
from lightning_rlhf.models.roles import SeparateRoles, build_policies, build_trained
from lightning_rlhf.models.scalar import load_scalar_model
from lightning_rlhf.models.shared import Shared, SharedRoles, shared_roles
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.trace import DEPTH
from lightning_rlhf.planner.weights import BACKBONE, POLICY, Sizes, Weights, count
from lightning_rlhf.rewards.net import NetReward


@dataclass
class Nets:
    """The models of a stage with at most `DEPTH` blocks, and their sizes at full depth."""

    module: nn.Module
    """The module that holds all models."""
    members: dict[str, nn.Module]
    """The models with blocks by role. A model that takes several roles is `backbone`."""
    depths: dict[str, int]
    """Number of blocks of the model of each role, at full depth."""
    sizes: Sizes
    """Sizes of the models at full depth."""


def architecture(source: ModelSource) -> dict[str, object]:
    """The configuration of a source as plain values.

    It comes from a folder if that exists on this machine, otherwise from `model.config`, otherwise from the hub.

    Raises:
        UserError: If there is no configuration.
    """
    config = _known(source).hf_config()
    return {key: value for key, value in config.to_dict().items() if key not in ("dtype", "transformers_version")}


def num_positions(source: ModelSource) -> int | None:
    """The number of tokens that a model can read; None if there is no limit."""
    return getattr(_known(source).hf_config(), "max_position_embeddings", None)


def _known(source: ModelSource) -> ModelSource:
    is_here = source.pretrained is not None and Path(source.pretrained).expanduser().exists()
    return source if is_here or not source.config else replace(source, pretrained=None, meta_dir=None, tokenizer="none")


def shallow(source: ModelSource) -> tuple[ModelSource, int]:
    """The source of a model of the same kind with random weights and at most `DEPTH` blocks, and the full depth."""
    fields = architecture(source)
    # New adapters have the size of existing ones. bitsandbytes does not support fake tensors; `count` knows its sizes.
    plain = replace(
        source,
        pretrained=None,
        meta_dir=None,
        config=fields,
        tokenizer="none",
        compile=False,
        quantization=None,
        adapter_dir=None,
    )
    config = plain.hf_config()
    depth = config.num_hidden_layers
    kinds = getattr(config, "layer_types", None)
    if depth > DEPTH and (not kinds or len(set(kinds)) == 1):
        fields[config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = DEPTH
        if kinds:
            fields["layer_types"] = kinds[:DEPTH]
    return replace(plain, config=fields), depth


@contextmanager
def built(job: Job) -> Iterator[Nets]:
    """Context in which the models of a stage exist."""
    with FakeTensorMode(), _replacing_weights():
        module = _module(job)
        # The strategy does not hold the policy that samples for a normalisation.
        of_run = nn.ModuleDict({name: net for name, net in module.named_children() if name != POLICY})
        _cast_as_held(of_run, job)
        sources = _sources(job)
        depths = {role: shallow(source)[1] for role, source in sources.items()}
        members = {name: net for name, net in module.named_children() if blocks(net)}
        held = _of_backbone(module, depths["actor"], job.model.quantization) if isinstance(module, SharedRoles) else {}
        for role, net in members.items():
            if role != BACKBONE:
                held[role] = count(net, depths[role], sources[role].quantization)
        policy = held.pop(POLICY, None)
        played = tuple(role for role in sources if BACKBONE in members and role not in members)
        if job.dtype is not None and not job.autocast:
            cast_weights(of_run, job.dtype)
        own_head = isinstance(module, SharedRoles) and not _is_tied(module.exported())
        sampler = members.get(POLICY, module.generator() if job.record.samples else None)  # type: ignore[operator]
        in_columns = job.prefill_tokens is not None and sampler is not None and is_supported(sampler)
        size = 0, 0
        if sampler is not None and in_columns and not job.model.quantization:
            size = _arrangeable(sampler, depths["actor"])
        yield Nets(module, members, depths, Sizes(held, played, policy, own_head, in_columns, size))


def _arrangeable(net: nn.Module, depth: int) -> tuple[int, int]:
    """Bytes of the weights that can be arranged at full depth, plain and transposed ones."""
    sizes = Counter[bool]()
    for layer in arrangeable(net):
        sizes[isinstance(layer, Conv1D)] += layer.weight.nbytes
    return sizes[False] * depth // len(blocks(net)), sizes[True] * depth // len(blocks(net))


def _cast_as_held(module: nn.Module, job: Job) -> None:
    """Casts weights to the dtype in which they are held, if the strategy or the precision determines it."""
    if job.holds_16_bits:
        assert job.dtype is not None
        cast_weights(module, job.dtype)
    elif job.layout.engine == "fsdp":
        # Frozen weights share a flat tensor with trained weights.
        cast_weights(module, next(weight.dtype for weight in module.parameters() if weight.requires_grad))


@contextmanager
def _replacing_weights() -> Iterator[None]:
    """Context in which moving or casting a module replaces its weights.

    By default, torch swaps fake weights in place, which fails if anything else refers to them (nn/modules/module.py,
    `_apply`). peft moves each of its layers.
    """

    def apply(self: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        for part in self.modules():
            for name, weight in part._parameters.items():
                if weight is not None and (changed := function(weight)) is not weight:
                    part._parameters[name] = nn.Parameter(changed.detach(), weight.requires_grad)
        return self

    before = nn.Module._apply
    nn.Module._apply = apply  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._apply = before  # type: ignore[method-assign]


def _module(job: Job) -> nn.Module:
    model = shallow(job.model)[0]
    if job.record.samples:
        return _shared(job, model) if job.shared and job.record.has_four_roles else _separate(job, model)
    if job.record.has_reference and job.reference:
        actor, reference = build_policies(load_causal_lm(model), _reference(job))
        return nn.ModuleDict({"actor": actor, "reference": reference})
    net = load_scalar_model(model, "normal") if job.record.trains_reward_model else load_causal_lm(model)
    nets = {"actor": build_trained(net)}
    if job.normalizing_length:
        nets[POLICY] = _reference(job).requires_grad_(False).eval()
    return nn.ModuleDict(nets)


def _is_tied(net: PreTrainedModel) -> bool:
    return net.get_output_embeddings().weight is net.get_input_embeddings().weight


def _sources(job: Job) -> dict[str, ModelSource]:
    """The source of the model of each role."""
    nets = {"actor": job.model, "reference": job.model}
    if job.normalizing_length:
        nets[POLICY] = job.model
    if job.critic:
        nets["critic"] = job.model if job.shared else job.critic
    if job.reward:
        nets["reward"] = job.model if job.reward_plays else job.reward
    return nets


def _separate(job: Job, model: ModelSource) -> SeparateRoles:
    actor, reference = build_policies(load_causal_lm(model), _reference(job))
    return SeparateRoles(
        actor=actor,
        reference=reference,
        critic=build_trained(load_scalar_model(shallow(job.critic)[0], "zero")) if job.critic else None,
        reward=NetReward(load_scalar_model(shallow(job.reward)[0], "zero")) if job.reward else _no_scores,
    )


def _reference(job: Job) -> PreTrainedModel:
    return load_causal_lm(shallow(job.model.frozen)[0])


def _shared(job: Job, model: ModelSource) -> SharedRoles:
    shared = Shared(
        partial(load_causal_lm, model),
        reference="adapter" if job.adapter_reference else "base",
        critic_init=job.critic_init,
    )
    return shared_roles(shared, partial(_reward, job), with_critic=job.critic is not None)


def _reward(job: Job, backbone: Backbone) -> Callable[[Answers], Scores]:
    if job.reward is None:
        return _no_scores
    if not job.reward_plays:
        return NetReward(load_scalar_model(shallow(job.reward)[0], "zero"))
    assert job.reward_adapter is not None
    inject(backbone.net, job.reward_adapter, "reward")
    size = backbone.net.config.get_text_config().hidden_size
    return NetReward(AdapterScalar(backbone, "reward", torch.zeros(1, size), 0.0))


def _no_scores(answers: Answers) -> Scores:
    """Stands for a score that comes from no model, and takes no memory that the plan counts."""
    return Scores(torch.zeros(0), {})


def _of_backbone(roles: SharedRoles, depth: int, quantization: str | None) -> dict[str, Weights]:
    """The sizes of the model without adapters, and of what each role adds to it."""
    named = dict(roles.backbone.named_parameters())

    def adapter(name: str) -> list[nn.Parameter]:
        return [weight for key, weight in named.items() if is_part_of_adapter(key, name)]

    members = {BACKBONE: [weight for key, weight in named.items() if not is_part_of_adapter(key)]}
    members |= {role: list(weights.parameters()) for role, weights in roles.trainable().items()}
    if roles.reference is not None:
        members["reference"] = adapter(roles.reference)
    reward = roles.reward.net if isinstance(roles.reward, NetReward) else None
    if isinstance(reward, AdapterScalar):
        members["reward"] = [*adapter(reward.adapter), *reward.parameters()]
    return {role: count(roles.backbone, depth, quantization, weights) for role, weights in members.items()}
