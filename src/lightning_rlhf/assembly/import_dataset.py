"""Converts a public data set to the formats that the stages read."""

import time
from pathlib import Path

from lightning_rlhf.assembly.setting_names import without_group
from lightning_rlhf.console import console
from lightning_rlhf.errors import UserError
from lightning_rlhf.saving import write_json


def import_dataset(
    layout: str,
    path: str | None,
    output_dir: str,
    split: str | None,
    config_name: str | None,
    where: dict[str, object] | None,
    limit: int | None,
) -> Path:
    """Converts a data set, and says what was kept and dropped.

    Args:
        layout: The layout of the data.
        path: File, folder or name of the data; None for the data set after which the layout is named.
        output_dir: Folder of the files.
        split: Split to read.
        config_name: Configuration of a hub data set.
        where: Values that columns of a row must have; None keeps all rows.
        limit: Number of rows to read; None for all.

    Returns:
        The folder, which also contains `result.json`.

    Raises:
        UserError: If a setting is wrong, the data cannot be read, or the folder is not empty.
    """
    start = time.perf_counter()
    if limit is not None and limit < 1:
        raise UserError(f"limit={limit}: must be positive; null reads all rows")
    folder = Path(output_dir).expanduser()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"output_dir={output_dir}: it is not empty; choose a folder that is new or empty")
    # Reading data imports torch, which takes seconds.
    from lightning_rlhf.data.importing.convert import LAYOUTS, convert
    from lightning_rlhf.data.sources import source_of
    from lightning_rlhf.data.splits import Reading

    if layout not in LAYOUTS:
        raise UserError(f"layout={layout}: expected one of {', '.join(LAYOUTS)}")
    named = LAYOUTS[layout]
    name = path or named.hub
    split = split or (None if path else named.split)
    with console.status(f"reading {name}"), without_group():
        source = source_of(name, Reading(split=split, config_name=config_name))
        converted = convert(source, layout, folder, where=where or {}, limit=limit)
    console.say(f"{name}: {converted.read:,} rows read")
    for file, count in converted.kept.items():
        console.say(f"{folder / file}.jsonl: {count:,} rows")
    for reason, count in sorted(converted.dropped.items(), key=lambda item: -item[1]):
        console.say(f"dropped because {reason}: {count:,}")
    record = {
        "stage": "import-dataset",
        "status": "finished",
        "metrics": {"read": converted.read, "kept": converted.kept, "dropped": converted.dropped},
        "seconds": round(time.perf_counter() - start, 3),
    }
    write_json(folder / "result.json", record)
    return folder
