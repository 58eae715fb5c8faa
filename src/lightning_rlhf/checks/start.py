"""The inexpensive checks that every run makes at its start, before the model has learned anything."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from torch import nn
from transformers import PreTrainedModel

from lightning_rlhf.checks.finding import Finding, tolerance
from lightning_rlhf.checks.nets import ignores_padding, reads_last_token
from lightning_rlhf.checks.rollouts import first_rollout, ratio_is_one, starts_at_reference
from lightning_rlhf.checks.texts import QUESTION, fits_context, fits_vocabulary, labels, single_bos
from lightning_rlhf.data.batches import Ids
from lightning_rlhf.data.kinds import Conversation
from lightning_rlhf.data.pairs import Pair, Scored
from lightning_rlhf.distributed.phases import rollout_phase, whole
from lightning_rlhf.experience import Rollout
from lightning_rlhf.models.scalar import Scalar
from lightning_rlhf.modules.ppo import PPOModule
from lightning_rlhf.modules.stage_module import StageModule, samples
from lightning_rlhf.rewards.net import TextNetReward


def at_fit_start(trainer: Trainer, module: Any) -> Iterator[Finding]:
    """Checks the rows and the models before the first step."""
    data: object = trainer.datamodule  # type: ignore[attr-defined]
    conversations = list(conversations_of(getattr(data, "train_rows", [])))
    prompts = [prompt.ids for prompt in getattr(data, "train_prompts", [])]
    rows = [row.ids for row in conversations] + prompts
    if not rows:
        return
    if conversations:
        yield from labels(module.renderer, conversations)
    yield single_bos(module.renderer, rows)
    yield fits_vocabulary(max(int(np.max(row)) for row in rows), smallest(module, "vocab_size"))
    yield longest_fits(module, data, rows)
    if not prompts:
        by_length = sorted(rows, key=len)
        with rollout_phase(trainer, module):
            yield from scalar_nets(trainer, module, [by_length[0], by_length[-1]])


def longest_fits(module: Any, data: object, rows: Sequence[Ids]) -> Finding:
    """Checks that the longest row that the models read fits into their context."""
    texts = [row.ids for row in getattr(data, "ptx", None) or ()]
    lengths = {"the longest text to mix in": max(map(len, texts), default=0)}
    if samples(module):
        limit = module.sampling.max_new_tokens
        lengths[f"the longest prompt and {limit} new tokens"] = max(map(len, rows)) + limit
    else:
        lengths["the longest row"] = max(map(len, rows))
    held_out = getattr(data, "val_prompts", None) or getattr(data, "prompts", None)
    if held_out:
        limit = module.answers.sampling.max_new_tokens
        lengths[f"the longest held-out prompt and {limit} new tokens"] = max(len(p.ids) for p in held_out) + limit
    longest = max(lengths, key=lambda what: lengths[what])
    return fits_context(longest, lengths[longest], smallest(module, "max_position_embeddings"))


def at_first_rollout(trainer: Trainer, module: PPOModule, rollout: Rollout) -> Iterator[Finding]:
    """Checks PPO's first rollout."""
    sequences = rollout.experience.sequences
    lengths = sequences.attention_mask.sum(1)
    rows = [
        sequences.input_ids[row][sequences.attention_mask[row]].tolist() for row in (lengths.argmin(), lengths.argmax())
    ]
    with module.engine.phase(trainer, module, generator=module.roles.generator()) as engine:
        yield from first_rollout(module, engine, rollout, allowed(trainer, module))
        yield from scalar_nets(trainer, module, rows)


def at_first_batch(trainer: Trainer, module: nn.Module, batch: object) -> Iterator[Finding]:
    """Checks the first batch of a stage that does not sample, such as DPO's first pairs."""
    distance = module.start_distance(batch) if isinstance(module, StageModule) else None
    if distance is not None:
        yield starts_at_reference(distance, allowed(trainer, module))


def at_first_loss(trainer: Trainer, module: nn.Module, approx_kl: float) -> Iterator[Finding]:
    """Checks PPO's first minibatch as the update sees it.

    Args:
        trainer: The trainer, which knows the precision.
        module: The module.
        approx_kl: Half the mean square of the log-ratio of the tokens.
    """
    yield ratio_is_one((2 * approx_kl) ** 0.5, allowed(trainer, module))


def scalar_nets(trainer: Trainer, module: nn.Module, rows: Sequence[Ids]) -> Iterator[Finding]:
    """Checks that reward models and critic ignore padding, and that reward models read the last token.

    The caller is in a `rollout_phase`.

    Args:
        trainer: The trainer, which knows the precision.
        module: The module that holds the models.
        rows: Token ids for the models that read the ids of the actor.
    """
    own = {text.net: text.renderer for text in module.modules() if isinstance(text, TextNetReward)}
    for path, net in module.named_modules():
        if not isinstance(net, Scalar):
            continue
        is_critic = "critic" in path
        name, limit = "critic" if is_critic else _reward_name(path), allowed(trainer, net)
        if net in own:
            question = own[net].prompt([QUESTION])
            read: list[Ids] = [question, 2 * question]
        else:
            read = list(rows)
        # The checks call parts of a model, for which a sharding strategy has no hooks.
        with whole(trainer, *net.called):
            yield ignores_padding(name, net, read, limit)
            if not is_critic:
                yield reads_last_token(name, net, read, limit)


def _reward_name(path: str) -> str:
    """The name of the reward model at a path. In a sum it includes the name of the part."""
    _, _, part = path.partition(".nets.")
    return f"reward model {part.partition('.')[0]}" if part else "reward model"


def conversations_of(rows: Iterable[Pair | Scored | Conversation]) -> Iterator[Conversation]:
    """The conversations in the rows of a data module."""
    for row in rows:
        if isinstance(row, Pair):
            yield row.chosen
            yield row.rejected
        else:
            yield row.conversation if isinstance(row, Scored) else row


def smallest(module: nn.Module, name: str) -> int | None:
    """The smallest value of a setting among the models that read the actor's ids; None if no model has the setting."""
    others = {net for text in module.modules() if isinstance(text, TextNetReward) for net in text.modules()}
    configs = [net.config for net in module.modules() if isinstance(net, PreTrainedModel) and net not in others]
    values = [getattr(config, name, None) for config in configs]
    return min((value for value in values if value is not None), default=None)


def allowed(trainer: Trainer, module: nn.Module) -> float:
    """The largest difference that rounding may cause."""
    return tolerance(next(module.parameters()).dtype, str(trainer.precision))
