"""What makes a run smaller: each setting by itself with what it saves, and the fewest that make it fit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from lightning_rlhf.models.adapters import Lora
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.layout import Layout
from lightning_rlhf.planner.plan import Plan


@dataclass(frozen=True)
class Knob:
    """A change of settings."""

    setting: str
    """As it is written on the command line."""
    cost: str
    """What it costs, or changes."""
    turn: Callable[[Job], Job]


@dataclass(frozen=True)
class Saving:
    """What a knob does to a plan."""

    knob: Knob
    peak: int
    """Bytes on a device with it."""
    saves: int
    fits: bool | None
    """None: there is no limit."""


def knobs(job: Job) -> Iterator[Knob]:
    """Those that a job has left, the mildest first.

    First what changes no number, then strategies, then what trains less or in fewer digits.
    """
    block = {"reward": "reward_model"}.get(job.stage, job.stage)
    if not job.model.gradient_checkpointing:
        yield Knob(
            "model.gradient_checkpointing=true",
            "a third more time",
            lambda job: job.with_model(gradient_checkpointing=True),
        )
    rows = job.micro_batch_size
    if rows > 1:
        whole = job.minibatch_size // job.processes
        yield Knob(
            f"{block}.trainer.accumulate_grad_batches={whole}",
            "micro-batches of 1, slower on a GPU",
            lambda job: replace(job, accumulate=max(1, job.minibatch_size // job.processes)),
        )
    if job.stage == "ppo" and job.rollout_rows > 1:
        fewer = max(1, job.rollout_rows // 8)
        yield Knob(
            f"rollout.micro_batch_size={fewer}",
            "slower sampling",
            lambda job: replace(job, rollout_micro_batch_size=max(1, job.rollout_rows // 8)),
        )
    if job.model.quantization is None:
        # What is quantized cannot be divided.
        yield from _strategies(job)
    yield from _smaller(job)


def _strategies(job: Job) -> Iterator[Knob]:
    bucket = job.layout.reduce_bucket or 200_000_000
    zero = Layout(engine="deepspeed", stage=3, reduce_bucket=bucket)
    if job.processes > 1 and job.layout.stage < 3:
        fully = Layout(engine="fsdp2", stage=3)
        yield Knob("strategy=fsdp2", "communication", lambda job: replace(job, layout=fully))
    if job.on_gpu and job.layout.parameters_on == "device":
        offloaded = replace(zero, optimizer_on="cpu", parameters_on="cpu")
        yield Knob(
            "strategy=deepspeed_zero3_offload",
            "optimizer's step on the host, weights over the bus",
            lambda job: replace(job, layout=offloaded, optimizer="cpu_adamw"),
        )
    if job.stage == "ppo" and job.layout.stage == 3 and job.layout.gather_for_generation:
        yield Knob(
            "trainer.strategy.gather_for_generation=false",
            "much slower sampling",
            lambda job: replace(job, layout=replace(job.layout, gather_for_generation=False)),
        )


def _smaller(job: Job) -> Iterator[Knob]:
    if job.model.dtype == "float32":
        yield Knob(
            "model.dtype=bfloat16 trainer.precision=bf16-true",
            "weights and optimizer in three digits",
            lambda job: replace(job.with_model(dtype="bfloat16"), precision="bf16-true"),
        )
    if job.optimizer_bits == 32 and job.layout.stage == 0 and job.on_gpu:
        yield Knob("optim=adamw_8bit", "the optimizer's averages in 8 bits", lambda job: replace(job, optimizer_bits=8))
    quantizes = job.model.quantization is None and job.layout.stage < 3
    # One net has no critic that starts as a reward model beside it.
    shares = job.stage == "ppo" and not job.shared and not (job.critic_init == "reward" and job.reward_adapter is None)
    if job.model.adapter is None:
        yield Knob("adapter=lora", "trains an adapter only", _with_adapter)
    if shares:
        yield Knob("adapter=lora roles=shared", "adapters of one net in all roles", _with_shared)
    if quantizes:
        yield Knob(
            "adapter=lora model.quantization=nf4",
            "weights in 4 bits",
            lambda job: _with_quantization(_with_adapter(job)),
        )
    if shares and quantizes:
        yield Knob(
            "adapter=lora roles=shared model.quantization=nf4",
            "one net, in 4 bits",
            lambda job: _with_quantization(_with_shared(job)),
        )


def _with_shared(job: Job) -> Job:
    """One net in all roles of PPO."""
    return replace(_with_adapter(job), shared=True)


def _with_adapter(job: Job) -> Job:
    """Adapters on what is trained."""

    def adapted(source: object) -> object:
        return source and replace(source, adapter=source.adapter or Lora())  # type: ignore[attr-defined, type-var]

    return replace(job, model=adapted(job.model), critic=adapted(job.critic))  # type: ignore[arg-type]


def _with_quantization(job: Job) -> Job:
    critic = job.critic and replace(job.critic, quantization="nf4")
    return replace(job, model=replace(job.model, quantization="nf4"), critic=critic)


def savings(plan: Plan, limit: int | None) -> list[Saving]:
    """What each knob saves by itself, the largest saving first; those that save nothing are left out."""
    found = []
    for knob in knobs(plan.job):
        peak = turned(plan, [knob]).peak.total
        saves = plan.peak.total - peak
        if saves > 0:
            found.append(Saving(knob, peak, saves, None if limit is None else peak <= limit))
    return sorted(found, key=lambda saving: -saving.saves)


def turned(plan: Plan, knobs: list[Knob]) -> Plan:
    """The plan with some knobs turned, in order."""
    job = plan.job
    for knob in knobs:
        job = knob.turn(job)
    return replace(plan, job=job)


def smallest(plan: Plan, limit: int) -> list[Knob] | None:
    """The fewest and mildest knobs that make a plan fit; empty if it fits, None if none do."""
    if plan.fits(limit):
        return []
    order = list(knobs(plan.job))
    for knob in order:
        if turned(plan, [knob]).fits(limit):
            return [knob]
    chosen: list[Knob] = []
    for knob in order:
        chosen.append(knob)
        if turned(plan, chosen).fits(limit):
            break
    else:
        return None
    # What came first may not be needed, now that the last is there.
    for knob in chosen[:-1]:
        without = [other for other in chosen if other is not knob]
        if turned(plan, without).fits(limit):
            chosen = without
    return chosen
