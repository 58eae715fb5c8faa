"""The phases of a stage, moment by moment: the memory that is held throughout, and what the passes add."""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch

from lightning_rlhf.distributed.blocks import blocks
from lightning_rlhf.models.roles import Roles
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.planner import passes
from lightning_rlhf.planner.engines import rules
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.memory import Bytes, Kind, Moment
from lightning_rlhf.planner.nets import Nets, built
from lightning_rlhf.planner.rules import Rules
from lightning_rlhf.planner.sampling import arranged_size, kept_in_batches, kept_in_columns
from lightning_rlhf.planner.trace import Segment, stretched
from lightning_rlhf.planner.weights import POLICY, Sizes, Weights


@dataclass(frozen=True)
class Passes:
    """The passes of the models of a stage in each phase, and the sizes of the models."""

    sizes: Sizes
    segments: dict[str, list[Segment]]
    """Segments of `prefill` and `decoding` (first and last forward pass of a rollout), `scoring` and `update`."""
    cache: dict[str, int]
    """Bytes of the key-value cache in `prefill` and `decoding`."""

    @property
    def casts(self) -> int:
        """Bytes that a forward pass of sampling leaves in addition to its cache: weights that autocast has cast."""
        return max(0, sum(segment.kept for segment in self.segments["prefill"]) - self.cache["prefill"])


def moments(job: Job) -> list[Moment]:
    """All moments of a stage on a device, in order."""
    found = run_passes(job)
    rule = rules(job, found.sizes)
    experience: Bytes = Counter({("", "experience"): experience_size(job)} if job.record.samples else {})
    base = rule.parameters + rule.optimizer + rule.always + experience
    whole = base + rule.gradients
    moments = [Moment("load", "models are loaded", rule.parameters + rule.always)]
    engine: Bytes = Counter() if job.engine is None else job.engine.memory(found.sizes)
    if job.record.samples:
        sampling = whole + (rule.generation if job.engine is None else engine)
        if job.engine is None:
            moments += _sampling("rollout", "actor", sampling, job, found, rule)
        else:
            moments.append(Moment("rollout", "the engine samples", sampling))
        moments += _walk("scoring", "", found.segments["scoring"], [sampling] * 2, rule, found.sizes)
    elif job.engine is not None and found.sizes.policy is None:
        moments.append(Moment("evaluation", "the engine samples", whole + engine))
    if not job.on_gpu and found.sizes.policy is None:
        # An engine sleeps during the update, but not on a CPU. One that samples to normalise is built afterwards.
        base, whole = base + engine, whole + engine
    bases = [whole + rule.forward, base + rule.backward]
    moments += _walk("update", "", found.segments["update"], bases, rule, found.sizes)
    moments.append(Moment("update", "optimizer step", whole + rule.step))
    if found.sizes.policy is not None and job.engine is not None:
        # The policy stays on the CPU, where it was built.
        policy: Bytes = Counter({(POLICY, "parameters"): 0 if job.on_gpu else found.sizes.policy.size})
        moments.append(Moment("normalize", "the engine samples", whole + engine + policy))
    elif found.sizes.policy is not None:
        held = whole + _held_of_policy(job, found.sizes.policy)
        moments += _sampling("normalize", POLICY, held, job, found, rule)
    if found.sizes.policy is not None:
        moments += _walk("normalize", "", found.segments["scoring"], [whole] * 2, rule, found.sizes)
    moments.append(Moment("export", "model is written", whole))
    return moments


def _held_of_policy(job: Job, policy: Weights) -> Bytes:
    """Memory of the policy whose samples normalise a reward model, see `distributed.phases.place_generator`."""
    if not job.layout.divides_weights or job.layout.gather_for_generation:
        return Counter({(POLICY, "parameters"): policy.size})
    # The same as in `sharded.gathered_by_block`.
    gathered = policy.outer + 2 * policy.block
    return Counter({(POLICY, "parameters"): round(policy.size / job.processes), (POLICY, "gathered"): gathered})


def _sampling(phase: str, role: str, held: Bytes, job: Job, found: Passes, rule: Rules) -> list[Moment]:
    """Moments of sampling with the model of a role."""
    prefill, decoding, casts = found.cache["prefill"], found.cache["decoding"], found.casts
    held = held + Counter({(role, "parameters"): arranged_size(job, found.sizes)})
    if found.sizes.in_columns:
        kept = kept_in_columns(
            job, role, prefill, decoding, casts, (found.sizes.policy or found.sizes.generator).blocks
        )
    else:
        kept = kept_in_batches(role, decoding, casts)
    moments = _walk(phase, "prefill", found.segments["prefill"], [held + kept.prefill] * 2, rule, found.sizes)
    moments += [Moment(phase, what, held + size) for what, size in kept.moved.items()]
    return moments + _walk(phase, "decoding", found.segments["decoding"], [held + kept.decoding] * 2, rule, found.sizes)


def experience_size(job: Job) -> int:
    """Bytes of the experience of a rollout (`experience.Experience`). Each rank holds that of all ranks."""
    length = job.prompt_length + job.response_length
    # Each token has an id and a mask, each response token has a mask and floats, and each row has the weight of the KL
    # penalty and the version of the weights that sampled it.
    return job.rollout_batch_size * (9 * length + (1 + 4 * (6 if job.critic else 4)) * job.response_length + 12)


def _walk(
    phase: str, what: str, segments: list[Segment], bases: list[Bytes], rule: Rules, sizes: Sizes
) -> list[Moment]:
    """Moments of a pass, one for each segment.

    Args:
        phase: Name of the phase.
        what: A word for the pass, which precedes role and part in the name of a moment.
        segments: Segments of the pass.
        bases: Memory that is held in addition to the pass, in its forward part and in its backward part.
        rule: Rules of the strategy for gradients and weights.
        sizes: Sizes of the models.
    """
    live: Bytes = Counter()
    found = []
    for segment in segments:
        held = Counter(bases[segment.backward])
        held.update(live)
        gradients = 0
        if segment.backward and rule.whole_gradients:
            gradients = segment.work_with_gradients - segment.work
            gradients = max(gradients, segment.kept + segment.gradients + rule.extra(segment) - segment.work)
        held[segment.role, _kind(segment)] += segment.work
        held[segment.role, "gradients"] += max(0, gradients)
        held[segment.role, "gathered"] += rule.gathered(segment, phase)
        net = sizes.called(segment.role)
        if net is not None and segment.part == "block":
            held[segment.role, "gathered"] += net.dequantized
        direction = "backward" if segment.backward else "forward"
        found.append(Moment(phase, f"{what} {segment.role} {direction}, {segment.part}".strip(), held))
        live[segment.role, _kind(segment)] += segment.kept
        live[segment.role, "gradients"] += rule.left(segment)
    return found


def _kind(segment: Segment) -> Kind:
    return "logits" if segment.part == "head" and segment.role in ("actor", "reference") else "activations"


_SIZES: dict[str, Sizes] = {}
_SEGMENTS: dict[str, tuple[list[Segment], int]] = {}
"""Passes that were run before, with the sizes of their caches. The keys are texts, because a source is not hashable."""


def run_passes(job: Job) -> Passes:
    """The passes of a stage. Passes that were run before are not run again."""
    models = (job.model, job.critic, job.reward, job.reference)
    shared = job.shared and (job.critic_init, job.adapter_reference, job.reward_adapter)
    held = (job.precision, job.autocast, job.layout.engine, job.normalizing_length, job.prefill_tokens is None)
    nets = repr((job.stage, models, shared, held))
    lengths = (job.prompt_length, job.response_length)
    sampled = repr((nets, *lengths, job.sampled_rows, job.read_rows, job.scored_rows, job.exact_kl))
    keys = {"update": repr((nets, *lengths, job.micro_batch_size, job.entropy, job.ptx_length))}
    if job.record.samples or job.normalizing_length:
        keys = {name: f"{name} {sampled}" for name in ("prefill", "decoding", "scoring")} | keys
    missing = [name for name, key in keys.items() if key not in _SEGMENTS]
    if missing or nets not in _SIZES:
        with built(job) as there:
            _SIZES[nets] = there.sizes
            _SEGMENTS.update({keys[name]: _run(job, there, name) for name in missing})
    found = {name: _SEGMENTS[key] for name, key in keys.items()}
    return Passes(
        _SIZES[nets],
        {name: segments for name, (segments, _) in found.items()},
        {name: size for name, (_, size) in found.items()},
    )


def _run(job: Job, nets: Nets, name: str) -> tuple[list[Segment], int]:
    sizes: dict[str, int] = {}
    work = _work(job, nets, sizes)[name]
    nets.module.train(name == "update")
    with _precision(job):
        segments = passes.traced(nets.module, nets.members, work)
    size = sizes.get(name, 0) * nets.depths["actor"] / len(blocks(nets.members[nets.sizes.owner("actor")]))
    return stretched(segments, nets.depths), round(size)


def _work(job: Job, nets: Nets, sizes: dict[str, int]) -> dict[str, Callable]:
    if job.record.samples:
        return _iteration(job, nets, sizes)
    rows, net = job.micro_batch_size * job.record.rows, nets.members["actor"]
    prompt, response = job.prompt_length, job.response_length
    if job.record.reads == "answers":
        update = passes.preferring(nets.members, rows, prompt, response)
    elif job.record.trains_reward_model:
        update = passes.judging(cast(ScalarModel, net), rows, prompt + response)
    else:
        update = passes.imitating(net, rows, prompt + response)
    return {"update": update} | (_normalizing(job, nets, sizes) if job.normalizing_length else {})


def _iteration(job: Job, nets: Nets, sizes: dict[str, int]) -> dict[str, Callable]:
    roles = cast(Roles, nets.module)
    prompt, response, rows = job.prompt_length, job.response_length, job.micro_batch_size
    actor, sampled = roles.generator(), job.sampled_rows
    read = job.read_rows if nets.sizes.in_columns else sampled
    return {
        "prefill": passes.prefill(actor, read, prompt, sizes),
        "decoding": passes.decoding(actor, sampled, prompt + response - 1, sizes),
        "scoring": passes.scoring(roles, job.scored_rows, prompt, response, exact_kl=job.exact_kl),
        "update": passes.updating(roles, rows, prompt, response, entropy=job.entropy, ptx=(rows, job.ptx_length)),
    }


def _normalizing(job: Job, nets: Nets, sizes: dict[str, int]) -> dict[str, Callable]:
    policy, model, sampled = nets.members[POLICY], nets.members["actor"], job.sampled_rows
    prompt, length = job.sampled_prompt, job.sampled_prompt + job.sampled_response
    read = job.read_rows if nets.sizes.in_columns else sampled
    return {
        "prefill": passes.prefill(policy, read, prompt, sizes, POLICY),
        "decoding": passes.decoding(policy, sampled, length - 1, sizes, POLICY),
        "scoring": passes.grading(cast(ScalarModel, model), job.rollout_rows, length),
    }


def _precision(job: Job) -> AbstractContextManager:
    return torch.autocast("cpu", job.dtype) if job.dtype and job.autocast else nullcontext()
