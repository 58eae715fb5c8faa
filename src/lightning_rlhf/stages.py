"""The stages: one record for each, which `train`, `plan`, `doctor`, `export` and the run card read.

A new stage is a record here, its LightningModule in `modules/`, its settings in `conf/stage/`, and a test.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from lightning_rlhf.errors import UserError

Net = Literal["policy", "reference", "critic", "reward model", "score"]
"""What a stage builds. `policy` is a causal language model that is trained, `reference` its start, which is not.
`reward model` is a scalar model that is trained, `critic` one that starts where `critic_init` of the stage says.
`score` is whatever the group `reward` of the configuration names."""


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What the parts of this package need to know of a stage."""

    name: str
    """On the command line, in `stages` of the configuration, and in `result.json`."""
    title: str
    """On the run card and in messages."""
    short_title: str = ""
    """Where there is less room; empty: the title."""
    block: str = ""
    """The block of the configuration that holds the settings of the stage; empty: its name."""
    nets: Mapping[str, Net]
    """The arguments of its module that are nets, or build them."""
    reads: Literal["texts", "answers", "prompts"]
    """What a row of its data is: `texts` are read as a whole, `answers` follow a prompt, and `prompts` are answered by
    the stage itself."""
    rows: int = 1
    """Rows that a net reads for each sequence of a minibatch: both answers of a pair are 2."""
    exported: str
    """Where its module keeps the net that it exports. Later stages of a run start from an exported policy, and take the
    score from an exported reward model."""
    in_terminal: tuple[str, ...]
    """Held-out metrics that `train` prints at its end."""
    headline: tuple[str, ...]
    """Held-out metrics at the top of the run card."""
    headline_of_pipeline: tuple[str, ...] = ()
    """Those at the top if the stage is the last of several, each from the last one that has it; empty: the same."""
    logs: tuple[str, ...] = ()
    """Beginnings of the names of metrics that tell its log from those of the stages before it in `STAGES`."""

    def __post_init__(self) -> None:
        """Fills in what is left empty."""
        vars(self).update(
            short_title=self.short_title or self.title,
            block=self.block or self.name,
            headline_of_pipeline=self.headline_of_pipeline or self.headline,
        )

    @property
    def samples(self) -> bool:
        """Whether an epoch is an iteration of rollout and update."""
        return self.reads == "prompts"

    @property
    def unit(self) -> str:
        """What an epoch is called."""
        return "iteration" if self.samples else "epoch"

    @property
    def trains_reward_model(self) -> bool:
        """Whether it trains and exports a reward model; every other stage does a policy."""
        return "reward model" in self.nets.values()

    @property
    def has_reference(self) -> bool:
        """Whether a policy is compared with its start."""
        return "reference" in self.nets.values()

    @property
    def has_four_roles(self) -> bool:
        """Whether adapters of one net can play all its nets (`roles=shared`)."""
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
        # `reward` itself is where the score of PPO comes from.
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
"""All stages by their names, in the order in which a pipeline runs them."""


def stage_record(name: str) -> StageRecord:
    """The record of a stage.

    Raises:
        UserError: If there is no such stage.
    """
    if name not in STAGES:
        raise UserError(f"stages: there is no stage {name}; there are {', '.join(STAGES)}")
    return STAGES[name]
