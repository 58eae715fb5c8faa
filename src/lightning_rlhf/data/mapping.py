"""Maps a file of Arrow record batches to others: here where there are few rows, else by `datasets` in processes."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

BATCH = 200
"""Rows of a batch. With five times as many, the garbage collector, which counts objects, takes a third of the time."""

# So many rows are some seconds of work: worth the import of `datasets`, a progress bar, and the start of a process.
_MANY = 5000


def map_file(source: Path, folder: Path, function: Callable[[pa.Table], pa.Table], *, count: int, title: str) -> None:
    """Writes what a function makes of the batches of a file to `.arrow` files, whose names have the order of the rows.

    Args:
        source: A stream of record batches.
        folder: Where the files go.
        function: Makes as many rows of a table; other processes may run it.
        count: Rows in all.
        title: Stands at the progress bar.

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
            # Nobody looks for it by a digest of the function.
            new_fingerprint="rows",
            desc=title,
        )


def read_mapped(folder: Path) -> pa.Table:
    """The table in the files of a folder, which are mapped into memory."""
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
    """Cores that this process may use, which are fewer than the machine's in a container or a SLURM job."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _bar_for_people() -> Iterator[None]:
    """No progress bar where the output is not a terminal."""
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
    """Tells tokenizers not to start threads in each of several processes; they warn of a fork otherwise."""
    name = "TOKENIZERS_PARALLELISM"
    told = processes > 1 and name not in os.environ
    if told:
        os.environ[name] = "false"
    try:
        yield
    finally:
        if told:
            del os.environ[name]
