"""Texts that PPO goes on imitating: demonstrations, or plain text as in pretraining."""

from itertools import chain
from typing import Any

from lightning_rlhf.data.files import read_rows
from lightning_rlhf.data.reading import OnError, read, rendered
from lightning_rlhf.data.render import Rendered, Renderer
from lightning_rlhf.errors import UserError


def read_ptx(path: str, renderer: Renderer, max_length: int, on_error: OnError) -> list[Rendered]:
    """Reads texts.

    Args:
        path: Rows with a field `text` are plain text, of which every token is learnt; otherwise demonstrations in any
            known layout, of which the answers are.
        renderer: Makes tokens of texts.
        max_length: In tokens: plain texts are cut there, longer demonstrations are left out and counted.
        on_error: What a wrong demonstration does: stop, or be skipped and counted.

    Raises:
        UserError: If there is nothing to learn.
    """
    rows = read_rows(path)
    first, place = next(rows)
    if "text" in first:
        return [_plain(row, place, renderer, max_length) for row, place in chain([(first, place)], rows)]
    return rendered(
        read(path, "completion", on_error),
        lambda record: renderer.conversation(record.messages),
        lambda row: len(row.ids),
        path=path,
        max_length=max_length,
    )


def _plain(row: dict[str, Any], place: str, renderer: Renderer, max_length: int) -> Rendered:
    if not isinstance(row.get("text"), str) or not row["text"].strip():
        raise UserError(f"{place}: field 'text' has to hold a text, as in the first row")
    # Special tokens as the tokenizer sets them, and an end.
    ids = [*renderer.tokenizer(row["text"])["input_ids"], renderer.tokenizer.eos_token_id][:max_length]
    # Nothing predicts the first token, so it is no label: labels are what the loss is divided by.
    return Rendered(ids, [False] + [True] * (len(ids) - 1))
