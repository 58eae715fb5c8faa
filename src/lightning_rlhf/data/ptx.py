"""Texts that PPO goes on imitating: demonstrations, or plain text as in pretraining."""

from collections.abc import Iterator, Sequence

from lightning_rlhf.data.fields import Message
from lightning_rlhf.data.formats import OnError, Record
from lightning_rlhf.data.kinds import Conversation, Kind, conversations, demonstrations
from lightning_rlhf.data.reading import fitting, read
from lightning_rlhf.data.render import Rendered, Renderer
from lightning_rlhf.data.rows import Rows
from lightning_rlhf.data.sources import Data, Source, source_of
from lightning_rlhf.errors import UserError


def read_ptx(data: Data, renderer: Renderer, max_length: int, on_error: OnError) -> Rows[Conversation]:
    """Reads texts.

    Args:
        data: Rows with a field `text` are plain text, of which every token is learnt; otherwise demonstrations in any
            known layout, of which the answers are.
        renderer: Makes tokens of texts.
        max_length: In tokens: plain texts are cut there, longer demonstrations are left out and counted.
        on_error: What a wrong demonstration does: stop, or be skipped and counted.

    Raises:
        UserError: If there is nothing to learn.
    """
    first, _ = next(source_of(data).rows())
    prepared = read(data, _plain_texts(max_length) if "text" in first else demonstrations(), renderer, on_error)
    return fitting(prepared.name, prepared.rows, max_length)


def _plain_texts(max_length: int) -> Kind[Conversation]:
    def render(renderer: Renderer, records: Sequence[Record]) -> list[Rendered | UserError]:
        # Special tokens as the tokenizer sets them, and an end.
        encoded = renderer.tokenizer([record.messages[0]["content"] for record in records])["input_ids"]
        return [_learnt([*ids, renderer.tokenizer.eos_token_id][:max_length]) for ids in encoded]

    return conversations(f"plain texts of {max_length} tokens", _texts, render)


def _texts(source: Source, skipped: list[str], on_error: OnError) -> Iterator[Record]:
    for row, place in source.rows():
        text = row.get("text")
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{place}: field 'text' has to hold a text, as in the first row")
        yield Record([Message(role="assistant", content=text)], None, None, None, {}, place)


def _learnt(ids: list[int]) -> Rendered:
    # Nothing predicts the first token, so it is no label: labels are what the loss is divided by.
    return Rendered(ids, [False] + [True] * (len(ids) - 1))
