"""The stages: one record for each, which `train`, `plan`, `doctor`, `export` and the run card read.

A new stage is a record here, its LightningModule in `modules/`, its settings in `conf/stage/`, and a test.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from lightning_rlhf.errors import UserError

Net = Literal["policy", "reference", "critic", "reward model", "score"]
"""The role of a model in a stage. `policy` is a causal language model that the stage trains, and `reference` is a copy
of its start that the stage does not train. `reward model` is a scalar model that the stage trains, and `critic` is one
that starts where `critic_init` of the stage says. `score` is whatever the group `reward` of the configuration names."""


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What the rest of this package needs to know about a stage."""

    name: str
    """The name of the stage on the command line, in `stages` of the configuration, and in `result.json`."""
    title: str
    """The name of the stage on the run card and in messages."""
    short_title: str = ""
    """The title where space is short; `title` if empty."""
    block: str = ""
    """The block of the configuration that holds the settings of the stage; `name` if empty."""
    nets: Mapping[str, Net]
    """The arguments of the stage's module that are models, or that build them, with the role of each."""
    reads: Literal["texts", "answers", "prompts"]
    """What a row of the data is: the stage reads `texts` as a whole, `answers` follow a prompt, and the stage itself
    answers `prompts`."""
    rows: int = 1
    """Rows that a model reads for each sequence of a minibatch: 2 for a pair, which has two answers."""
    exported: str
    """The attribute of the module that holds the model to export. Later stages of a run start from an exported policy,
    and take the score from an exported reward model."""
    in_terminal: tuple[str, ...]
    """The held-out metrics that `train` prints at the end of the run."""
    headline: tuple[str, ...]
    """The held-out metrics at the top of the run card."""
    headline_of_pipeline: tuple[str, ...] = ()
    """The metrics at the top of the run card if the stage is the last of several. Each comes from the last stage that
    has it. `headline` if empty."""
    logs: tuple[str, ...] = ()
    """Prefixes of metric names that distinguish the log of this stage from the logs of the stages before it in
    `STAGES`."""

    def __post_init__(self) -> None:
        """Fills in the defaults of the fields that are empty."""
        vars(self).update(
            short_title=self.short_title or self.title,
            block=self.block or self.name,
            headline_of_pipeline=self.headline_of_pipeline or self.headline,
        )

    @property
    def samples(self) -> bool:
        """Whether the stage samples its responses, so that an epoch is an iteration of rollout and update."""
        return self.reads == "prompts"

    @property
    def unit(self) -> str:
        """The word for an epoch of the stage."""
        return "iteration" if self.samples else "epoch"

    @property
    def trains_reward_model(self) -> bool:
        """Whether the stage trains and exports a reward model; every other stage trains and exports a policy."""
        return "reward model" in self.nets.values()

    @property
    def has_reference(self) -> bool:
        """Whether the stage compares the policy with its start."""
        return "reference" in self.nets.values()

    @property
    def has_four_roles(self) -> bool:
        """Whether adapters of one model can take all the roles of the stage (`roles=shared`)."""
        return set(self.nets.values()) == {"policy", "reference", "critic", "score"}


_RECORDS = (
    StageRecord(
        name="sft",
        title="Supervised fine-tuning",
        short_title="SFT",
        nets={"net": "policy"},
        reads="texts",
        exported="net",
        in_terminal=("loss", "perplexity", "optimality", "gold_rate", "response_length", "eos_rate"),
        headline=("perplexity", "gold_rate", "eos_rate", "loss"),
    ),
    StageRecord(
        name="reward",
        title="Reward model",
        # The block `reward` says where the score of PPO comes from.
        block="reward_model",
        nets={"net": "reward model"},
        reads="texts",
        rows=2,
        exported="net",
        in_terminal=("reward_accuracy", "longer_wins_accuracy", "shorter_wins_accuracy", "loss"),
        headline=("reward_accuracy", "longer_wins_accuracy", "shorter_wins_accuracy", "loss"),
        headline_of_pipeline=("reward_accuracy",),
        logs=("val/reward_accuracy",),
    ),
    StageRecord(
        name="ppo",
        title="PPO",
        nets={"actor": "policy", "reference": "reference", "critic": "critic", "reward": "score"},
        reads="prompts",
        exported="roles.actor",
        in_terminal=("score", "optimality", "gold_rate", "gold_win_rate", "kl", "response_length", "eos_rate"),
        headline=("gold_rate", "gold_win_rate", "score", "kl"),
        headline_of_pipeline=("gold_rate", "gold_win_rate", "reward_accuracy", "kl"),
        logs=("val/kl", "rollout/"),
    ),
    StageRecord(
        name="dpo",
        title="DPO",
        nets={"actor": "policy", "reference": "reference"},
        reads="answers",
        rows=2,
        exported="actor",
        in_terminal=("reward_accuracy", "gold_rate", "gold_win_rate", "kl", "response_length", "eos_rate"),
        headline=("gold_rate", "gold_win_rate", "reward_accuracy", "kl"),
        logs=("val/chosen_reward",),
    ),
)

STAGES: Mapping[str, StageRecord] = MappingProxyType({record.name: record for record in _RECORDS})
"""All stages by name, in the order in which a pipeline runs them."""


def stage_record(name: str) -> StageRecord:
    """Looks up the record of a stage.

    Raises:
        UserError: If no stage has this name.
    """
    if name not in STAGES:
        raise UserError(f"stages: there is no stage {name}; there are {', '.join(STAGES)}")
    return STAGES[name]
