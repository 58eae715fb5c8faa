"""Texts that are mixed into PPO's updates: demonstrations, or plain text as in pretraining."""

from collections.abc import Iterator, Sequence

from lightning_rlhf.data.faults import OnError, Report, WrongRow
from lightning_rlhf.data.formats import Record
from lightning_rlhf.data.kinds import Conversation, Kind, conversations, demonstrations
from lightning_rlhf.data.messages import Message
from lightning_rlhf.data.reading import fitting, read
from lightning_rlhf.data.render import Rendered, Renderer
from lightning_rlhf.data.rows import Rows
from lightning_rlhf.data.sources import Data, Source, source_of
from lightning_rlhf.data.splits import Reading
from lightning_rlhf.errors import UserError


def read_ptx(
    data: Data, renderer: Renderer, max_length: int, on_error: OnError, reading: Reading | None = None
) -> Rows[Conversation]:
    """Reads the texts.

    Args:
        data: Rows with a field `text` are plain texts, whose tokens are all learnt. Other rows are demonstrations in
            any known layout, whose answers are learnt.
        renderer: Turns texts into tokens.
        max_length: Limit in tokens. Plain texts are truncated to it; longer demonstrations are skipped and counted.
        on_error: Whether an invalid row raises an error, or is skipped and counted.
        reading: Which part of the data is read, and what its fields are called.

    Raises:
        UserError: If there is nothing to learn.
    """
    source = source_of(data, reading)
    first = next((row for row, _ in source.rows() if not isinstance(row, WrongRow)), {})
    prepared = read(source, _plain_texts(max_length) if "text" in first else demonstrations(), renderer, on_error)
    return fitting(prepared.name, prepared.rows, max_length)


def _plain_texts(max_length: int) -> Kind[Conversation]:
    def render(renderer: Renderer, records: Sequence[Record]) -> list[Rendered | UserError]:
        # The tokenizer adds its own special tokens; EOS is added here.
        encoded = renderer.tokenizer([record.messages[0]["content"] for record in records])["input_ids"]
        return [_learnt([*ids, renderer.tokenizer.eos_token_id][:max_length]) for ids in encoded]

    return conversations(f"plain texts of {max_length} tokens", _texts, render)


def _texts(source: Source, report: Report, on_error: OnError) -> Iterator[Record]:
    for row, place in source.rows():
        report.read += 1
        text = None if isinstance(row, WrongRow) else row.get("text")
        if isinstance(text, str) and text.strip():
            yield Record([Message(role="assistant", content=text)], None, None, None, {}, place)
        else:
            wrong = row if isinstance(row, WrongRow) else "field 'text' must contain a text, as in the first row"
            report.skip(place, wrong)
    report.check(source.name, on_error)


def _learnt(ids: list[int]) -> Rendered:
    # Nothing predicts the first token, so it is not a label. The loss is divided by the number of labels.
    return Rendered(ids, [False] + [True] * (len(ids) - 1))
