"""What a plan is made of: the settings of one stage, without anything that needs weights."""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from lightning_rlhf.models.adapters.lora import Lora
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.planner.layout import Layout
from lightning_rlhf.stages import STAGES, StageRecord


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage of a run; sizes of batches are in sequences, lengths in tokens."""

    stage: str
    """Its name, see `lightning_rlhf.stages`."""
    model: ModelSource
    """Of the net that the stage exports: the actor, or the reward model that it trains."""
    critic: ModelSource | None = None
    """None: the advantage estimator needs none."""
    reward: ModelSource | None = None
    """None: the score comes from no net."""
    shared: bool = False
    """Whether one backbone plays all four roles; `critic` then says only whether there is one."""
    critic_init: Literal["reward", "policy"] | None = None
    """Of such a backbone: whose adapter the critic starts with."""
    adapter_reference: bool = False
    """Whether its reference is an adapter, not the net without any."""
    reward_adapter: Lora | None = None
    """What a reward model adds to it; None: a net of its own gives the score."""
    reference: bool = True
    """Whether a stage that has one in its record does not do without."""
    layout: Layout = field(default_factory=Layout)
    precision: str = "32-true"
    on_gpu: bool = False
    processes: int = 1
    processes_per_node: int = 1
    optimizer: str = "torch.optim.AdamW"
    """Dotted name of what makes it."""
    optimizer_bits: int = 32
    """Of each of the optimizer's averages; 8, or as many as the weights have."""
    prompt_length: int
    response_length: int
    minibatch_size: int
    accumulate: int = 1
    """Parts of a process's share of a minibatch."""
    rollout_batch_size: int = 0
    """Responses of an iteration, or those that a reward model is normalised on."""
    rollout_micro_batch_size: int = 0
    normalizing_length: int = 0
    """Most tokens of a response that a reward model is normalised on; 0: it is not."""
    ppo_epochs: int = 1
    entropy_grad: bool = False
    exact_kl: bool = False
    ptx_length: int = 0
    """Of texts that are mixed in; 0: none are."""
    steps: int = 1
    """Optimizer steps of an epoch, for FLOPs; PPO's follow from its batches."""

    @property
    def record(self) -> StageRecord:
        """What the stage is."""
        return STAGES[self.stage]

    @property
    def reward_plays(self) -> bool:
        """Whether the net behind the score is the backbone."""
        return self.shared and self.reward_adapter is not None

    @property
    def dtype(self) -> torch.dtype | None:
        """What nets compute in, if it is not the dtype of their weights."""
        return {"b": torch.bfloat16, "1": torch.float16}.get(self.precision[0])

    @property
    def holds_16_bits(self) -> bool:
        """Whether trained weights are held in 16 bits: the engines that cast keep fp32 copies all the same."""
        return self.precision in ("bf16-true", "16-true") and self.layout.engine not in ("deepspeed", "colossalai")

    @property
    def autocast(self) -> bool:
        """Whether weights keep their dtype, and autocast chooses for each operator."""
        return "mixed" in self.precision and not self.layout.casts

    @property
    def micro_batch_size(self) -> int:
        """Sequences that one process puts through its nets at a time in an update."""
        return max(1, self.minibatch_size // (self.processes * self.accumulate))

    @property
    def rollout_rows(self) -> int:
        """Sequences that one process samples and scores at a time."""
        return max(1, min(self.rollout_micro_batch_size, -(-self.rollout_batch_size // self.processes)))

    @property
    def normalizing_prompt(self) -> int:
        """Tokens of a prompt that a reward model is normalised on; without a length of its own, those of a row."""
        return self.prompt_length or self.response_length

    def with_rows(self, rows: int) -> "Job":
        """The same with micro-batches of so many sequences, which divide a process's share of the minibatch."""
        return replace(self, accumulate=max(1, self.minibatch_size // (rows * self.processes)))

    def with_model(self, **changes: object) -> "Job":
        """The same with other settings of the models."""
        nets = {name: getattr(self, name) for name in ("model", "critic", "reward")}
        return replace(self, **{name: net and replace(net, **changes) for name, net in nets.items()})
