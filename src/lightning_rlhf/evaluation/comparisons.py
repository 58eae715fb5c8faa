"""Reads preferences: pairs in any layout that training reads, and rows of several answers as RewardBench 2 has them."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from lightning_rlhf.data.faults import OnError, Report, WrongRow
from lightning_rlhf.data.fields import Fields
from lightning_rlhf.data.formats import records_of
from lightning_rlhf.data.layouts import conversation
from lightning_rlhf.data.messages import Message, described
from lightning_rlhf.data.sources import Data, Source, held_out_source
from lightning_rlhf.data.splits import Reading

_ANSWERS = ("chosen", "rejected")


class Comparison(NamedTuple):
    """A prompt with good and bad answers. A pair has one of each; a row of RewardBench 2 has one good and three bad."""

    good: list[list[Message]]
    """Whole conversations that end with a good answer; at least one."""
    bad: list[list[Message]]
    """Whole conversations that end with a bad answer; at least one."""
    columns: Mapping[str, Any]
    """The other columns of the row."""
    place: str
    """The place of the row, such as `pairs.jsonl:12`."""
    tools: list[Any]
    """Descriptions of the tools that the assistant may call."""

    @property
    def conversations(self) -> list[list[Message]]:
        """All conversations, the good ones first."""
        return [*self.good, *self.bad]

    @property
    def prompt(self) -> str:
        """The conversation before the first good answer as JSON, which says which rows share a prompt."""
        return json.dumps(self.good[0][:-1])


def read_comparisons(data: Data, reading: Reading, report: Report, on_error: OnError) -> list[Comparison]:
    """Reads preferences that are held out; of several splits, those that are not for training.

    Args:
        data: File, folder, name of a hub data set, or rows. Where `chosen` and `rejected` are lists of texts, each text
            is an answer to `prompt`.
        reading: Which part of the data is read, and what its fields are called.
        report: Receives what was skipped and changed.
        on_error: Whether a wrong row raises an error, or is skipped and counted.

    Raises:
        UserError: If the data cannot be read, if rows are wrong, or if none is left.
    """
    source = held_out_source(data, reading)
    first = [row for row, _ in islice(source.rows(), 1)]
    if first and not isinstance(first[0], WrongRow) and _holds_lists(first[0]):
        return list(_lists(source, report, on_error))
    return [
        Comparison([record.messages], [record.rejected or []], record.columns, record.source, record.tools)
        for record in records_of(source, need="pair", report=report, on_error=on_error)
    ]


def _holds_lists(row: Mapping[str, Any]) -> bool:
    return any(isinstance(row.get(name), list | tuple) and _are_texts(row[name]) for name in _ANSWERS)


def _are_texts(values: Any) -> bool:
    return bool(values) and all(isinstance(value, str) for value in values)


def _lists(source: Source, report: Report, on_error: OnError) -> Iterator[Comparison]:
    for row, place in source.rows():
        report.read += 1
        try:
            if isinstance(row, WrongRow):
                raise row
            yield _comparison(row, place, source, report)
        except WrongRow as error:
            report.skip(place, error)
    report.check(source.name, on_error)


def _comparison(row: Mapping[str, Any], place: str, source: Source, report: Report) -> Comparison:
    if row.get("prompt") is None:
        raise WrongRow("field 'prompt' is missing; rows of several answers need prompt, chosen and rejected")
    others = {name: value for name, value in row.items() if name not in (*_ANSWERS, "completion")}
    answers: dict[str, list[list[Message]]] = {}
    columns: Mapping[str, Any] = {}
    for name in _ANSWERS:
        texts = row.get(name)
        if not isinstance(texts, list | tuple) or not _are_texts(texts):
            raise WrongRow(f"field '{name}' is {described(texts)}, expected a list of texts")
        if empty := [number for number, text in enumerate(texts) if not text.strip()]:
            raise WrongRow(f"field '{name}[{empty[0]}]' holds an empty answer")
        answers[name] = []
        for text in texts:
            fields = Fields({**others, "completion": text}, source.keys)
            answers[name].append(conversation(fields, "completion"))
            columns = fields.rest()
        report.notes.update(fields.notes)
    return Comparison(answers["chosen"], answers["rejected"], columns, place, [])
