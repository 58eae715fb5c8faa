"""Reads, renders and tokenizes data into a table on disk, or finds the table that an earlier run made of the same data.

The records are first written as text, a few at a time, and then mapped to rows, so only one batch of them is in memory
at any time.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import pyarrow as pa

from lightning_rlhf.data.cache import kept
from lightning_rlhf.data.faults import OnError, Report, WrongRow
from lightning_rlhf.data.for_template import for_template
from lightning_rlhf.data.formats import OtherColumns, Record
from lightning_rlhf.data.kinds import Columns, Kind
from lightning_rlhf.data.mapping import BATCH, map_file, read_mapped
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.rows import Rows
from lightning_rlhf.data.sources import Data, Source, source_of
from lightning_rlhf.data.split import position
from lightning_rlhf.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = TypeVar("Row")

_REPORT = "report.json"
_REFUSED = "refused"
_RECORDS = pa.schema({"position": pa.float64(), "record": pa.string()})


@dataclass(frozen=True)
class Prepared(Generic[Row]):
    """The result of preparing data.

    Attributes:
        name: Name of the data in messages.
        rows: All valid rows, including long ones.
        positions: (rows,) `position` of the prompt of each row, for the split.
        report: How many rows were read, which of them were skipped, and what was done to the others.
        others: Splits of the data that were not read.
    """

    name: str
    rows: Rows[Row]
    positions: np.ndarray
    report: Report
    others: Sequence[str]


def prepare(data: Data | Source, kind: Kind[Row], renderer: Renderer, on_error: OnError) -> Prepared[Row]:
    """Makes the rows of data.

    Args:
        data: A source, or a path, name or rows.
        kind: The kind of rows to make.
        renderer: Turns texts into tokens.
        on_error: Whether an invalid row raises an error, or is skipped and counted.

    Raises:
        UserError: If the data cannot be read or rendered; the message names the place of the problem.
    """
    source = data if isinstance(data, Source) else source_of(data)
    # Columns that JSON cannot represent are kept in memory, by the index of the record. The table is not cached then.
    beyond: dict[int, OtherColumns] = {}
    table, report = kept(
        _key(source, kind, renderer, on_error),
        lambda folder: _write(folder, source, kind, renderer, on_error, beyond),
        _read,
    )
    rows = Rows(table, kind.make, np.flatnonzero(table[_REFUSED].is_null().to_numpy()), beyond)
    return Prepared(source.name, rows, rows.numbers("position"), report, source.others)


def _read(folder: Path) -> tuple[pa.Table, Report]:
    report = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
    return read_mapped(folder), Report(**{**report, "notes": Counter(report["notes"])})


def _write(
    folder: Path,
    source: Source,
    kind: Kind[object],
    renderer: Renderer,
    on_error: OnError,
    beyond: dict[int, OtherColumns],
) -> bool:
    """Writes the table, and returns whether it may be cached."""
    folder.mkdir(parents=True)
    report = Report()
    texts = folder / "records"
    records = _for_template(kind, kind.records(source, report, on_error), renderer, report)
    count = _write_records(texts, records, beyond if kind.keeps_columns else None)
    # The largest id is used instead of the number of tokens, since ids may have gaps.
    vocabulary = 1 + max(renderer.tokenizer.get_vocab().values())
    render = partial(_rendered, kind=kind, renderer=renderer, vocabulary=vocabulary)
    map_file(texts, folder, render, count=count, title=f"tokenizing {source.name}")
    texts.unlink()
    # What the chat template refuses is known only after rendering.
    if refused := read_mapped(folder)[_REFUSED].drop_null().to_pylist():
        report.skipped += refused
        # Rows whose layout is not known have a hint already.
        hints = [report.hint, "data.template=FILE.jinja sets another chat template, which may accept them"]
        report.hint = "\n".join(filter(None, hints))
    report.check(source.name, on_error)
    (folder / _REPORT).write_text(json.dumps(vars(report)), encoding="utf-8")
    return not beyond


def _for_template(
    kind: Kind[object], records: Iterable[Record], renderer: Renderer, report: Report
) -> Iterator[Record]:
    """Fits records to the chat template, and reports those that it cannot render as they are."""
    for record in records:
        try:
            yield for_template(record, renderer.traits, report.notes)
        except WrongRow as error:
            report.skip(record.source, error)
            continue
        answers = sum(turn["role"] == "assistant" for turn in record.messages)
        if kind.every_answer and answers > 1 and renderer.traits.rewrites_answers:
            report.notes[
                "conversations of which only the last answer is learnt (the chat template rewrites others)"
            ] += 1


def _write_records(file: Path, records: Iterable[Record], beyond: dict[int, OtherColumns] | None) -> int:
    """Writes records, and returns their number.

    Args:
        file: The file to write.
        records: The records.
        beyond: Receives the columns that JSON cannot represent; None leaves out all columns.
    """
    count = 0
    records = iter(records)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, _RECORDS) as stream:
        while some := list(islice(records, BATCH)):
            texts = []
            for number, record in enumerate(some, count):
                columns = {} if beyond is None else record.columns
                if beyond is not None and not _is_json(columns):
                    beyond[number], columns = columns, {}
                texts.append(json.dumps(_fields(replace(record, columns=columns))))
            positions = [position(record.prompt) for record in some]
            stream.write_batch(pa.record_batch([positions, texts], schema=_RECORDS))
            count += len(some)
    return count


def _fields(record: Record) -> dict[str, object]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _is_json(columns: OtherColumns) -> bool:
    """Checks whether JSON preserves the columns; it does not preserve tuples, for example."""
    try:
        return not columns or json.loads(json.dumps(columns)) == columns
    except (TypeError, ValueError, RecursionError):
        return False


def _rendered(texts: pa.Table, kind: Kind[object], renderer: Renderer, vocabulary: int) -> pa.Table:
    """Makes the rows of some records; one that the chat template refuses has nothing but the reason."""
    positions, values = (texts[name].to_pylist() for name in _RECORDS.names)
    records = [Record(**json.loads(value)) for value in values]
    rows: list[Columns] = []
    refused: list[str | None] = []
    for record, columns in zip(records, kind.render(renderer, records), strict=True):
        refused.append(f"{record.source}: {columns}" if isinstance(columns, UserError) else None)
        rows.append({} if isinstance(columns, UserError) else columns)
    table = kind.table(rows, vocabulary).append_column("position", pa.array(positions, pa.float64()))
    return table.append_column(_REFUSED, pa.array(refused, pa.string()))


def _key(source: Source, kind: Kind[object], renderer: Renderer, on_error: OnError) -> str | None:
    """Computes a digest of everything that the rows depend on; None if there is no such digest."""
    tokenizer = _tokenizer_digest(renderer.tokenizer)
    # The digest would not include the code of a subclass of the renderer.
    if source.content is None or tokenizer is None or type(renderer) is not Renderer:
        return None
    parts = [source.content, kind.name, on_error, tokenizer, *map(str, renderer.stop_ids), *_code()]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _tokenizer_digest(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """Computes a digest of a fast tokenizer, which can be written as text, and its template; None for a slow one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    special = sorted((number, str(token)) for number, token in tokenizer.added_tokens_decoder.items())
    parts = [
        backend.to_str(),
        type(tokenizer).__qualname__,
        tokenizer.chat_template,
        tokenizer.special_tokens_map,
        special,
    ]
    return hashlib.blake2b(json.dumps(parts, default=str).encode(), digest_size=16).hexdigest()


@cache
def _code() -> tuple[str, ...]:
    """Returns the versions of the libraries that render, and a digest of the code of this package.

    The code is included because it may change while the version of the package does not.
    """
    modules = sorted(Path(__file__).parent.glob("*.py"))
    own = hashlib.blake2b(b"".join(module.read_bytes() for module in modules), digest_size=16).hexdigest()
    return own, *map(version, ("transformers", "tokenizers", "jinja2"))
