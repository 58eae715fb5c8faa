"""Maps a file of Arrow record batches: few rows in this process, many rows in several processes with `datasets`."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

BATCH = 200
"""Rows in a batch. With five times as many, the garbage collector, which counts objects, takes a third of the time."""

# This number of rows takes some seconds, which justifies importing `datasets`, a progress bar, and another process.
_MANY = 5000


def map_file(source: Path, folder: Path, function: Callable[[pa.Table], pa.Table], *, count: int, title: str) -> None:
    """Applies a function to the batches of a file, and writes the results to `.arrow` files.

    The names of the files are in the order of the rows.

    Args:
        source: A stream of record batches.
        folder: Folder for the files.
        function: Function that maps a table to a table with the same number of rows; other processes may run it.
        count: Total number of rows.
        title: Title of the progress bar.

    Raises:
        UserError: If the function raises one.
    """
    if count < _MANY:
        _map_here(source, folder / "rows.arrow", function)
        return
    from datasets import Dataset

    processes = min(_cores(), count // _MANY)
    rows = Dataset.from_file(str(source)).with_format("arrow")
    with _one_core_each(processes), _bar_for_people():
        rows.map(
            function,
            batched=True,
            batch_size=BATCH,
            remove_columns=rows.column_names,
            num_proc=processes if processes > 1 else None,
            cache_file_name=str(folder / "rows.arrow"),
            load_from_cache_file=False,
            # The result is never looked up by a digest of the function.
            new_fingerprint="rows",
            desc=title,
        )


def read_mapped(folder: Path) -> pa.Table:
    """Returns the table in the files of a folder, which are mapped into memory."""
    return pa.concat_tables(
        pa.ipc.open_stream(pa.memory_map(str(file))).read_all() for file in sorted(folder.glob("*.arrow"))
    )


def _map_here(source: Path, target: Path, function: Callable[[pa.Table], pa.Table]) -> None:
    with pa.OSFile(str(source)) as file, pa.ipc.open_stream(file) as batches:
        tables = (function(pa.Table.from_batches([batch])) for batch in batches)
        first = next(tables)
        with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_stream(sink, first.schema) as stream:
            stream.write_table(first)
            for table in tables:
                stream.write_table(table)


def _cores() -> int:
    """Counts the cores that this process may use; a container or a SLURM job may restrict them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _bar_for_people() -> Iterator[None]:
    """Context without a progress bar if the output is not a terminal."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hide = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


@contextmanager
def _one_core_each(processes: int) -> Iterator[None]:
    """Context in which tokenizers start no threads in each of several processes, and do not warn about a fork."""
    name = "TOKENIZERS_PARALLELISM"
    told = processes > 1 and name not in os.environ
    if told:
        os.environ[name] = "false"
    try:
        yield
    finally:
        if told:
            del os.environ[name]
