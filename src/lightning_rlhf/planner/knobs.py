"""Settings that reduce the memory of a run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from lightning_rlhf.models.adapters.lora import Lora
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.layout import Layout, layout

_ADAMW = "torch.optim.AdamW"
"""The optimizer if the configuration names none."""


@dataclass(frozen=True)
class Knob:
    """A change of settings."""

    setting: str
    """The setting as the user writes it on the command line."""
    cost: str
    """What the setting costs, or changes."""
    turn: Callable[[Job], Job]
    """Applies the setting to a job."""

    @property
    def key(self) -> str:
        """A name that is the same for all values of one setting."""
        return self.setting if self.is_strategy else self.setting.rpartition("=")[0]

    @property
    def is_strategy(self) -> bool:
        """Whether the knob chooses a strategy."""
        return self.setting.startswith("strategy=")

    @property
    def of_strategy(self) -> bool:
        """Whether the knob has no effect any more once another strategy is chosen."""
        return self.is_strategy or self.setting.startswith("trainer.strategy.")

    @property
    def divides(self) -> bool:
        """Whether the knob divides weights among the processes."""
        return self.of_strategy

    @property
    def quantizes(self) -> bool:
        """Whether the knob quantizes weights."""
        return "model.quantization=" in self.setting


def knobs(job: Job) -> Iterator[Knob]:
    """The knobs that can still be turned for a job, the mildest first.

    First come knobs that change no number, then strategies, then knobs that train fewer weights or use fewer digits.
    """
    if not job.model.gradient_checkpointing:
        yield Knob(
            "model.gradient_checkpointing=true",
            "a third more time",
            lambda job: job.with_model(gradient_checkpointing=True),
        )
    if job.micro_batch_size > 1:
        yield Knob(
            f"{job.record.block}.trainer.accumulate_grad_batches={job.minibatch_size // job.processes}",
            "micro-batches of 1, slower on a GPU",
            lambda job: job.with_rows(1),
        )
    if job.record.samples and job.rollout_rows > 1:
        fewer = max(1, job.rollout_rows // 8)
        yield Knob(
            f"rollout.micro_batch_size={fewer}",
            "slower sampling",
            lambda job: replace(job, rollout_micro_batch_size=fewer),
        )
    if job.model.quantization is None:
        # Quantized weights cannot be divided.
        yield from _strategies(job)
    yield from _smaller(job)


def _strategies(job: Job) -> Iterator[Knob]:
    offloads = job.layout.offloads
    if job.processes > 1 and (not job.layout.divides_weights or offloads):
        cost = "optimizer step and weights on the devices" if offloads else "communication"
        fully = Layout(engine="fsdp2", stage=3)
        yield Knob("strategy=fsdp2", cost, lambda job: _with_layout(job, fully, _ADAMW))
    if job.on_gpu and job.layout.parameters_on == "device":
        offloaded = layout(
            {"_target_": "DeepSpeedStrategy", "stage": 3, "offload_optimizer": True, "offload_parameters": True}
        )
        yield Knob(
            "strategy=deepspeed_zero3_offload",
            "optimizer step on the host, weights sent over the bus",
            lambda job: _with_layout(job, offloaded, "lightning_rlhf.strategies.deepspeed.ops.cpu_adamw"),
        )
    samples = job.record.samples or job.normalizing_length
    if samples and job.layout.divides_weights and job.layout.gather_for_generation:
        yield Knob(
            "trainer.strategy.gather_for_generation=false",
            "much slower sampling",
            lambda job: replace(job, layout=replace(job.layout, gather_for_generation=False)),
        )


def _with_layout(job: Job, changed: Layout, optimizer: str) -> Job:
    """The job with another strategy, which brings its own optimizer unless the user has chosen one."""
    usual = job.optimizer == _ADAMW or job.optimizer.rpartition(".")[2] in ("cpu_adamw", "hybrid_adam")
    return replace(job, layout=changed, optimizer=optimizer if usual else job.optimizer)


def _smaller(job: Job) -> Iterator[Knob]:
    if job.model.dtype == "float32":
        yield Knob(
            "model.dtype=bfloat16",
            "frozen weights with three digits",
            lambda job: job.with_model(dtype="bfloat16"),
        )
    if job.optimizer_bits == 32 and job.layout.stage == 0 and job.on_gpu:
        yield Knob(
            "optim=adamw_8bit",
            "the optimizer's averages in 8 bits",
            lambda job: replace(job, optimizer="lightning_rlhf.modules.low_bit_optimizers.adamw", optimizer_bits=8),
        )
    quantizes = job.model.quantization is None and not job.layout.divides_weights
    # The critic of a shared model cannot start from a separate reward model.
    starts_beside = job.critic_init == "reward" and job.reward_adapter is None
    shares = job.record.has_four_roles and not job.shared and not starts_beside
    adapted = "" if job.model.adapter else "adapter=lora "
    if job.model.adapter is None:
        yield Knob("adapter=lora", "trains an adapter only", _with_adapter)
    if shares:
        yield Knob(f"{adapted}roles=shared", "adapters of one model in all roles", _with_shared)
    if quantizes:
        yield Knob(
            f"{adapted}model.quantization=nf4",
            "weights in 4 bits",
            lambda job: _with_quantization(_with_adapter(job)),
        )
    if shares and quantizes:
        yield Knob(
            f"{adapted}roles=shared model.quantization=nf4",
            "one model, in 4 bits",
            lambda job: _with_quantization(_with_shared(job)),
        )
    if not job.holds_16_bits and job.layout.engine not in ("deepspeed", "colossalai"):
        yield Knob(
            "trainer.precision=bf16-true",
            "weights and optimizer with three digits: few weights move at a small learning rate",
            lambda job: replace(job, precision="bf16-true"),
        )


def _with_shared(job: Job) -> Job:
    """The job with one model in all four roles."""
    return replace(_with_adapter(job), shared=True)


def _with_adapter(job: Job) -> Job:
    """The job with adapters on the models that it trains."""

    def adapted(source: ModelSource) -> ModelSource:
        return replace(source, adapter=source.adapter or Lora())

    return replace(job, model=adapted(job.model), critic=job.critic and adapted(job.critic))


def _with_quantization(job: Job) -> Job:
    critic = job.critic and replace(job.critic, quantization="nf4")
    return replace(job, model=replace(job.model, quantization="nf4"), critic=critic)
