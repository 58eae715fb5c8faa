"""The rows of reward modelling and DPO: two answers to a prompt, or an answer with its score."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from lightning_rlhf.data.formats import OtherColumns, Record
from lightning_rlhf.data.kinds import TOKENS, Columns, Conversation, Kind, conversation_row, records_with, stretches
from lightning_rlhf.data.prompts import Prompt, prompt_columns, prompt_row
from lightning_rlhf.data.render import Rendered, Renderer
from lightning_rlhf.errors import UserError


class Pair(NamedTuple):
    """Two answers to one prompt."""

    chosen: Conversation
    rejected: Conversation
    margin: float


class Scored(NamedTuple):
    """An answer with its score."""

    conversation: Conversation
    score: float


def cut_at_end(conversation: Rendered) -> Rendered:
    """Removes everything that the template adds after the last stop token, since a sampled response ends there.

    The score is therefore read at the same token when the reward model is trained and when it judges samples.
    """
    end = len(conversation.loss_mask) - conversation.loss_mask[::-1].index(True)
    return Rendered(conversation.ids[:end], conversation.loss_mask[:end])


def _render_pairs(renderer: Renderer, records: Sequence[Record]) -> list[Columns | UserError]:
    texts = chain.from_iterable((record.messages, record.rejected or []) for record in records)
    tools = [record.tools for record in records for _ in range(2)]
    rendered = iter(renderer.conversations(list(texts), "last", tools))
    return [
        _columns(record, {"chosen": next(rendered), "rejected": next(rendered)}, {"margin": record.margin or 0.0})
        for record in records
    ]


def _render_scores(renderer: Renderer, records: Sequence[Record]) -> list[Columns | UserError]:
    rendered = renderer.conversations(
        [record.messages for record in records], "last", [record.tools for record in records]
    )
    return [
        _columns(record, {"chosen": one}, {"score": record.score})
        for record, one in zip(records, rendered, strict=True)
    ]


def _columns(record: Record, answers: dict[str, Rendered | UserError], others: Columns) -> Columns | UserError:
    """Makes the columns of a row from its answers; returns the error if an answer cannot be rendered."""
    columns = {**others, **prompt_columns(record)}
    lengths = []
    for name, answer in answers.items():
        if isinstance(answer, UserError):
            return answer
        ids, mask = cut_at_end(answer)
        columns |= {name: ids, f"{name}_learnt": stretches(mask)}
        lengths.append(len(ids))
    # The ids of a prompt are a prefix of those of its conversation, and only the last answer is learnt.
    return {**columns, "length": max(lengths), "tokens": sum(lengths), "prompt_length": columns["chosen_learnt"][0]}


def _pair(
    chosen: np.ndarray, chosen_learnt: np.ndarray, rejected: np.ndarray, rejected_learnt: np.ndarray, margin: float
) -> Pair:
    return Pair(conversation_row(chosen, chosen_learnt), conversation_row(rejected, rejected_learnt), margin)


def _scored(chosen: np.ndarray, chosen_learnt: np.ndarray, score: float) -> Scored:
    return Scored(conversation_row(chosen, chosen_learnt), score)


def prompt_of(chosen: np.ndarray, prompt_length: int, prompt: str, columns: str | OtherColumns) -> Prompt:
    """Makes the prompt of a row of either kind."""
    return prompt_row(chosen[:prompt_length], prompt, columns)


_SPANS = pa.list_(pa.int32())
_PROMPT = {
    # Tokens of the longest answer with its prompt, and of all answers with theirs.
    **{"length": pa.int32(), "tokens": pa.int32(), "prompt_length": pa.int32()},
    **{"prompt": pa.string(), "columns": pa.string()},
}
_CHOSEN = {"chosen": TOKENS, "chosen_learnt": _SPANS}
_REJECTED = {"rejected": TOKENS, "rejected_learnt": _SPANS}

PAIRS = Kind(
    "pairs", records_with("pair"), {**_PROMPT, **_CHOSEN, **_REJECTED, "margin": pa.float64()}, _render_pairs, _pair
)
SCORES = Kind("scores", records_with("score"), {**_PROMPT, **_CHOSEN, "score": pa.float64()}, _render_scores, _scored)
