"""Scores conversations with a trained reward model, many at a time."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from lightning_rlhf.console import TimedLines
from lightning_rlhf.data.batches import pad
from lightning_rlhf.data.messages import Message
from lightning_rlhf.data.pairs import cut_at_end
from lightning_rlhf.errors import UserError
from lightning_rlhf.rewards.build import LoadedReward

# Number of tokens, padding counted, that the model reads at a time.
_TOKENS_AT_A_TIME = 16_384


class Text(NamedTuple):
    """A conversation as the reward model reads it."""

    ids: list[int]
    answer_length: int
    """Number of tokens of the answer, the stop token counted."""


def rendered(
    reward: LoadedReward,
    conversations: Sequence[Sequence[Message]],
    finished: Sequence[bool] | None = None,
    tools: Sequence[list[Any]] | None = None,
) -> list[Text | UserError]:
    """Renders conversations up to the token at which the score is read, as training renders them.

    Args:
        reward: The reward model.
        conversations: Conversations that end with an answer.
        finished: Whether each answer is complete, rather than cut off at a length limit; None means that all are. A
            fragment has no stop token, so none is added.
        tools: Descriptions of the tools of each conversation, if there are any.

    Returns:
        The text of each; the error of one that the template refuses, or that is longer than the model can read.
    """
    limit: int = getattr(reward.net.hf_config, "max_position_embeddings", None) or 2**31
    rows: list[Text | UserError] = []
    for number, one in enumerate(reward.renderer.conversations(conversations, "last", tools)):
        if isinstance(one, UserError):
            rows.append(one)
            continue
        ids, mask = cut_at_end(one)
        end = len(ids) if finished is None or finished[number] else len(ids) - 1
        if end > limit:
            rows.append(UserError(f"the conversation has {end} tokens, and the reward model reads at most {limit}"))
        else:
            rows.append(Text(ids[:end], sum(mask[:end])))
    return rows


@torch.inference_mode()
def score_ids(reward: LoadedReward, rows: Sequence[list[int]], title: str = "scoring") -> list[float]:
    """Scores token ids; rows of similar length are read together, and the order of the rows changes nothing.

    Args:
        reward: The reward model, in evaluation mode.
        rows: The ids of each conversation.
        title: What the progress bar says.

    Returns:
        The score of each.

    Raises:
        UserError: If a score is not finite.
    """
    from tqdm import tqdm

    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    lines = TimedLines()
    scores, device = [0.0] * len(rows), reward.net.head.weight.device
    with tqdm(total=len(rows), desc=title, unit="answer", disable=None, delay=1) as bar:
        while order:
            some = order[-max(1, _TOKENS_AT_A_TIME // len(rows[order[-1]])) :]
            del order[-len(some) :]
            ids, mask = pad([rows[row] for row in some])
            found = reward.net.scores(ids.to(device), mask.to(device))
            if not found.isfinite().all():
                raise UserError("the reward model gives scores that are not finite: its weights are broken or overflow")
            for row, score in zip(some, found.tolist(), strict=True):
                scores[row] = score
            bar.update(len(some))
            lines.say(f"{title}: {len(rows) - len(order):,} of {len(rows):,} answers")
    return scores
