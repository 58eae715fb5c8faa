"""Examines the reward models behind the score of a stage: what they read, and whether they beat the answer length."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

from lightning_rlhf.assembly.handoff import Models
from lightning_rlhf.assembly.stage import PreparedStage
from lightning_rlhf.checks.data import tells_more_than_length
from lightning_rlhf.checks.finding import Finding
from lightning_rlhf.data.pairs import Pair
from lightning_rlhf.data.preference import PreferenceDataModule
from lightning_rlhf.data.splits import Reading
from lightning_rlhf.errors import UserError
from lightning_rlhf.rewards.net import NetReward, TextNetReward, device_of
from lightning_rlhf.stages import stage_record

_MOST_PAIRS, _BATCH_SIZE = 256, 16


def examine_reward(stage: PreparedStage, models: Models) -> Iterator[Finding]:
    """The findings about all reward models of a stage, if it has any.

    Args:
        stage: A stage that has run.
        models: Folders of the models that earlier stages have left.
    """
    for reward in stage.module.modules():
        if isinstance(reward, NetReward | TextNetReward):
            yield _how_it_reads(reward)
            # A reward model that this run trains itself has made only two steps.
            if not any(stage_record(name).trains_reward_model for name in models):
                yield from _beside_length(stage, reward)


def _how_it_reads(reward: NetReward | TextNetReward) -> Finding:
    if isinstance(reward, NetReward):
        return Finding("reward model: tokenizer", "ok", "tokenizer and template match the actor's: it reads token ids")
    return Finding("reward model: tokenizer", "ok", "tokenizer or template differ from the actor's: it reads texts")


def _beside_length(stage: PreparedStage, reward: NetReward | TextNetReward) -> Iterator[Finding]:
    data, module = stage.config.data, cast(Any, stage.module)
    # Splits are those of the data that training uses, unless a file of held-out pairs takes their place.
    splits = {} if data.preferences_held_out else {"split": data.split, "val_split": data.val_split}
    pairs = PreferenceDataModule(
        data.preferences_held_out or data.preferences,
        module.renderer if isinstance(reward, NetReward) else reward.renderer,
        # A file of held-out pairs is used whole. Of other pairs, only the part that no reward model was trained on is.
        val_path=data.preferences_held_out,
        val_fraction=data.val_fraction,
        minibatch_size=1,
        max_length=data.max_length,
        on_error="skip",
        reading=Reading(columns=data.columns, config_name=data.config_name, **splits),
    )
    try:
        pairs.setup("fit")
    except UserError:
        # The data contain no pairs.
        return
    rows = cast(Sequence[Pair], pairs.val_rows[:_MOST_PAIRS])
    yield tells_more_than_length(reward.eval().net, rows, _BATCH_SIZE, device_of(reward))
