"""The input of a plan: the settings of one stage, without anything that needs weights."""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from lightning_rlhf.data.budget import Load, parts_within
from lightning_rlhf.data.shares import rows_at_a_time
from lightning_rlhf.models.adapters.lora import Lora
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.planner.layout import Layout
from lightning_rlhf.planner.own_engine import OwnEngine
from lightning_rlhf.stages import STAGES, StageRecord


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage of a run. Batch sizes are in sequences, and lengths are in tokens."""

    stage: str
    """Name of the stage, see `lightning_rlhf.stages`."""
    model: ModelSource
    """Source of the model that the stage exports: the actor, or the reward model that it trains."""
    critic: ModelSource | None = None
    """Source of the critic; None if the advantage estimator needs none."""
    reward: ModelSource | None = None
    """Source of the reward model behind the score; None if no model gives the score."""
    shared: bool = False
    """Whether one backbone takes all four roles. `critic` then only says whether there is a critic."""
    critic_init: Literal["reward", "policy"] | None = None
    """The adapter from which the critic starts, if there is a shared backbone."""
    adapter_reference: bool = False
    """Whether the reference of a shared backbone is an adapter, and not the backbone without an adapter."""
    reward_adapter: Lora | None = None
    """The adapter of the reward model on a shared backbone; None if a separate model gives the score."""
    reference: bool = True
    """False if the stage has a reference in its record, but its settings do without."""
    layout: Layout = field(default_factory=Layout)
    precision: str = "32-true"
    on_gpu: bool = False
    processes: int = 1
    processes_per_node: int = 1
    optimizer: str = "torch.optim.AdamW"
    """Dotted name of the class or function that makes the optimizer."""
    fused: bool | None = None
    foreach: bool | None = None
    """Settings of PyTorch's optimizers, which say how a step goes over the weights; None leaves the choice to them."""
    optimizer_bits: int = 32
    """8 if the optimizer keeps its averages in 8 bits; otherwise they have the dtype of the weights."""
    prompt_length: int
    response_length: int
    minibatch_size: int
    accumulate: int = 1
    """Number of micro-batches into which a process divides its share of a minibatch."""
    max_tokens: int | None = None
    """Limit of the tokens of a micro-batch, padding included; None for none."""
    rollout_batch_size: int = 0
    """Number of responses of an iteration, or of responses on which a reward model is normalised."""
    rollout_micro_batch_size: int = 0
    """Number of these responses that one process scores at a time."""
    engine: OwnEngine | None = None
    """The rollout engine, if it has weights of its own; None if the trained model itself samples."""
    max_rows: int | None = None
    """Number of responses that the trained model samples at a time; None for as many as are scored at a time."""
    prefill_tokens: int | None = None
    """Number of prompt tokens that the native engine reads at a time; None for the padded engine."""
    samples_per_prompt: int = 1
    normalizing_length: int = 0
    """Maximum length of the responses on which a reward model is normalised; 0 if it is not normalised."""
    ppo_epochs: int = 1
    entropy: bool = False
    """Whether an update computes entropies."""
    exact_kl: bool = False
    ptx_length: int = 0
    """Length of the pretraining texts that are mixed in; 0 if there are none."""
    steps: int = 1
    """Optimizer steps of an epoch, for FLOPs. Those of PPO follow from its batch sizes."""

    @property
    def record(self) -> StageRecord:
        """The record of the stage."""
        return STAGES[self.stage]

    @property
    def reward_plays(self) -> bool:
        """Whether the backbone gives the score."""
        return self.shared and self.reward_adapter is not None

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype in which models compute; None if it is that of their weights."""
        return {"b": torch.bfloat16, "1": torch.float16}.get(self.precision[0])

    @property
    def holds_16_bits(self) -> bool:
        """Whether trained weights are held in 16 bits. DeepSpeed and ColossalAI keep fp32 copies in any case."""
        return self.precision in ("bf16-true", "16-true") and self.layout.engine not in ("deepspeed", "colossalai")

    @property
    def autocast(self) -> bool:
        """Whether weights keep their dtype, and autocast chooses the dtype of each operator."""
        return "mixed" in self.precision and not self.layout.casts

    @property
    def micro_batch_size(self) -> int:
        """Number of sequences on which one process computes at a time in an update."""
        return rows_at_a_time(self.minibatch_size, self.processes, self.accumulate)

    @property
    def num_requests(self) -> int:
        """Number of responses for which a process asks its engine at once.

        Those of a rollout are asked for together, and those on which a reward model is normalised in parts.
        """
        share = -(-self.rollout_batch_size // self.processes)
        return min(share, self.rollout_micro_batch_size) if self.normalizing_length else share

    @property
    def num_prompts(self) -> int:
        """Number of different prompts of these responses."""
        groups = -(-self.num_requests // self.samples_per_prompt)
        # A group that two processes share has its prompt in both.
        return min(self.num_requests, groups + (self.num_requests % self.samples_per_prompt > 0))

    @property
    def rollout_rows(self) -> int:
        """Number of sequences that one process scores at a time, if a token budget does not ask for fewer."""
        return max(1, min(self.rollout_micro_batch_size, self.num_requests))

    @property
    def sampled_rows(self) -> int:
        """Number of responses that one process samples at a time."""
        return max(1, min(self.max_rows or self.rollout_micro_batch_size, self.num_requests))

    @property
    def read_rows(self) -> int:
        """Number of prompts that the native engine reads at a time."""
        affordable = (self.prefill_tokens or 0) // max(1, self.sampled_prompt)
        return max(1, min(self.sampled_rows, self.num_prompts, affordable))

    @property
    def sampled_prompt(self) -> int:
        """Length of the prompts that are answered."""
        return self.normalizing_prompt if self.normalizing_length else self.prompt_length

    @property
    def sampled_response(self) -> int:
        """Largest length of the answers."""
        return self.normalizing_length or self.response_length

    @property
    def normalizing_prompt(self) -> int:
        """Length of the prompts on which a reward model is normalised; that of a row if no prompt length is given."""
        return self.prompt_length or self.response_length

    @property
    def scored_rows(self) -> int:
        """Number of sequences that one process scores at a time."""
        if self.max_tokens is None:
            return self.rollout_rows
        return max(1, min(self.rollout_rows, self.max_tokens // self.row_tokens))

    @property
    def row_tokens(self) -> int:
        """Number of tokens that a model reads for each sequence of a minibatch."""
        return self.record.rows * (self.prompt_length + self.response_length)

    def with_rows(self, rows: int) -> "Job":
        """The job with micro-batches of `rows` sequences, which must divide a process's share of the minibatch."""
        return replace(self, accumulate=max(1, self.minibatch_size // (rows * self.processes)))

    def within_budget(self) -> "Job":
        """The job with as many parts as its token budget needs if all rows are as long as they may be."""
        if self.max_tokens is None:
            return self
        longest = max(self.row_tokens, self.ptx_length)
        loads = [Load(self.minibatch_size, np.full(self.minibatch_size, longest))]
        return replace(self, accumulate=parts_within(self.max_tokens, loads, self.processes, self.accumulate))

    def with_model(self, **changes: object) -> "Job":
        """The job with other settings of its models."""
        nets = {name: getattr(self, name) for name in ("model", "critic", "reward")}
        return replace(self, **{name: net and replace(net, **changes) for name, net in nets.items()})
