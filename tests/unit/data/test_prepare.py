"""Preparing data once: what is kept, who shares it, and that nothing wrong is ever read from it."""

import datetime
import json
import logging
import multiprocessing
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset
from transformers import PreTrainedTokenizerFast

from lightning_rlhf.data import cache as caching
from lightning_rlhf.data import mapping
from lightning_rlhf.data import prepare as preparing
from lightning_rlhf.data.kinds import demonstrations
from lightning_rlhf.data.pairs import PAIRS
from lightning_rlhf.data.prepare import Prepared, prepare
from lightning_rlhf.data.prompts import PROMPT
from lightning_rlhf.data.reading import fitting
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.sources import Data
from lightning_rlhf.errors import UserError

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]
ROWS = [{"prompt": f"What is {n}?", "completion": "word " * n, "id": n} for n in range(1, 6)]

REFUSES_3 = (
    "{% if messages | length > 1 and '3' in messages[0].content %}{{ raise_exception('three') }}{% endif %}"
    "{{ messages | map(attribute='content') | join }}"
)


@pytest.fixture
def renderer(make_tokenizer: MakeTokenizer) -> Renderer:
    return Renderer(make_tokenizer())


@pytest.fixture
def path(tmp_path: Path) -> str:
    return write(tmp_path / "rows.jsonl", ROWS)


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def ids(data: Data, renderer: Renderer) -> list[list[int]]:
    return [row.ids.tolist() for row in prepare(data, demonstrations(), renderer, "raise").rows]


def expected(rows: list[dict[str, Any]], renderer: Renderer) -> list[list[int]]:
    turns = [[("user", row["prompt"]), ("assistant", row["completion"])] for row in rows]
    return [
        renderer.conversation([{"role": role, "content": text} for role, text in each]).ids  # type: ignore[typeddict-item]
        for each in turns
    ]


def kept(cache: Path) -> list[Path]:
    return sorted(file for file in (cache / "lightning_rlhf").glob("*") if file.is_dir())


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records what is rendered from now on."""
    rendered: list[str] = []
    right = preparing._rendered

    def mapped(texts: Any, **settings: Any) -> Any:
        rendered.extend(texts["record"].to_pylist())
        return right(texts, **settings)

    monkeypatch.setattr(preparing, "_rendered", mapped)
    return rendered


def test_data_are_rendered_once(
    path: str, renderer: Renderer, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = counted(monkeypatch)
    first, again = ids(path, renderer), ids(path, renderer)
    assert first == again == expected(ROWS, renderer)
    assert len(rendered) == len(ROWS)
    assert len(kept(own_cache)) == 1


def test_whatever_the_rows_depend_on_makes_others(
    path: str, make_tokenizer: MakeTokenizer, own_cache: Path, tmp_path: Path
) -> None:
    renderer = Renderer(make_tokenizer())
    ids(path, renderer)
    seen = [len(kept(own_cache))]
    for other in (
        lambda: ids(path, Renderer(make_tokenizer(), "raw")),
        lambda: ids(path, Renderer(make_tokenizer("llama"))),
        lambda: ids(path, Renderer(make_tokenizer(), stop_ids=[5])),
        lambda: prepare(path, demonstrations("last"), renderer, "raise"),
        lambda: prepare(path, demonstrations(), renderer, "skip"),
        lambda: ids(write(tmp_path / "rows.jsonl", ROWS[1:]), renderer),
        # This is the same data as at the beginning.
        lambda: ids(write(tmp_path / "rows.jsonl", ROWS), renderer),
    ):
        other()
        seen.append(len(kept(own_cache)))
    assert seen == [1, 2, 3, 4, 5, 6, 7, 7]


def damage(folder: Path) -> None:
    file = folder / "rows.arrow"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [
        damage,
        lambda folder: (folder / "rows.arrow").write_bytes((folder / "rows.arrow").read_bytes()[:-9]),
        lambda folder: (folder / "rows.arrow").unlink(),
        lambda folder: (folder / "seal.json").unlink(),
        lambda folder: (folder / "seal.json").write_text("{"),
    ],
    ids=["one bit", "cut", "no rows", "never finished", "an odd seal"],
)
def test_a_folder_that_does_not_hold_what_was_written_is_written_anew(
    spoil: Callable[[Path], object], path: str, renderer: Renderer, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ids(path, renderer)
    (folder,) = kept(own_cache)
    spoil(folder)
    rendered = counted(monkeypatch)
    assert ids(path, renderer) == ids(path, renderer) == right
    assert len(rendered) == len(ROWS)


def test_an_error_leaves_nothing_behind(renderer: Renderer, own_cache: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [*ROWS, {"prompt": "Why?"}])
    with pytest.raises(UserError, match="rows.jsonl:6: field 'completion' is missing"):
        ids(path, renderer)
    assert [file.suffix for file in (own_cache / "lightning_rlhf").iterdir()] == [".lock"]


def test_what_cannot_be_rendered_is_named_with_its_place(make_tokenizer: MakeTokenizer, path: str) -> None:
    with pytest.raises(UserError, match="\nrows.jsonl:3: the chat template refuses the messages: three\n"):
        ids(path, Renderer(make_tokenizer(), REFUSES_3))


def test_skipped_rows_are_told_each_time(renderer: Renderer, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"prompt": "Why?"}, *ROWS])
    for _ in range(2):
        prepared = prepare(path, demonstrations(), renderer, "skip")
        assert [line.partition(": ")[0] for line in prepared.report.skipped] == ["rows.jsonl:1"]
        assert len(prepared.rows) == len(ROWS)


def test_several_processes_make_the_same_rows_in_order(
    path: str, renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "_MANY", 2)
    monkeypatch.setattr(mapping, "_cores", lambda: 2)
    assert ids(path, renderer) == expected(ROWS, renderer)
    refusing = Renderer(renderer.tokenizer, REFUSES_3)
    with pytest.raises(UserError, match="\nrows.jsonl:3: the chat template refuses the messages: three\n"):
        ids(path, refusing)


def _prepare_in_a_process(path: str, renderer: Renderer, log: str, all_looked: Barrier) -> None:
    render, is_whole, looks = preparing._rendered, caching._is_whole, []

    def noted(texts: Any, **settings: Any) -> Any:
        with open(log, "a") as file:
            file.write("rendered\n")
        return render(texts, **settings)

    def looked(folder: Path) -> bool:
        looks.append(is_whole(folder))
        if len(looks) == 1:
            # No process continues before all have seen that the file is missing.
            all_looked.wait(timeout=60)
        return looks[-1]

    preparing._rendered, caching._is_whole = noted, looked  # type: ignore[assignment]
    assert len(prepare(path, demonstrations(), renderer, "raise").rows) == len(ROWS)


def test_one_process_prepares_while_the_others_wait(path: str, renderer: Renderer, tmp_path: Path) -> None:
    context, log = multiprocessing.get_context("fork"), tmp_path / "log"
    arguments = (path, renderer, str(log), context.Barrier(3))
    ranks = [context.Process(target=_prepare_in_a_process, args=arguments) for _ in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0, 0, 0]
    assert log.read_text() == "rendered\n"


def test_a_cache_that_cannot_be_written_is_told_in_one_line_and_not_needed(
    path: str, renderer: Renderer, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (own_cache / "lightning_rlhf").write_text("a file where a folder should be")
    assert ids(path, renderer) == expected(ROWS, renderer)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.startswith(f"{own_cache / 'lightning_rlhf'}: cannot be written")
    assert line.endswith("prepared data are not kept, see HF_DATASETS_CACHE")


class Torch(TorchDataset):
    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, place: int) -> dict[str, Any]:
        # Iterating over it does not end by itself.
        return ROWS[place % len(ROWS)]


@pytest.mark.parametrize("data", [ROWS, Dataset.from_list(ROWS), Torch()], ids=["list", "datasets", "torch"])
def test_rows_in_memory_are_read_as_those_of_a_file(data: Data, path: str, renderer: Renderer, own_cache: Path) -> None:
    of_file, of_memory = (prepare(source, PROMPT, renderer, "raise") for source in (path, data))
    assert [(row.ids.tolist(), *row[1:]) for row in of_memory.rows] == [
        (row.ids.tolist(), *row[1:]) for row in of_file.rows
    ]
    assert of_memory.rows[2].columns == {"id": 3, "messages": [{"role": "user", "content": "What is 3?"}]}
    assert of_memory.positions.tolist() == of_file.positions.tolist()
    assert len(kept(own_cache)) == 2


def test_wrong_rows_in_memory_are_named_by_their_number(renderer: Renderer) -> None:
    with pytest.raises(UserError, match="\nlist, row 2: field 'completion' is missing"):
        ids([*ROWS[:1], {"prompt": "Why?"}], renderer)
    with pytest.raises(UserError, match="list, row 1: expected a dict, found Why"):
        ids(["Why?"], renderer)  # type: ignore[list-item]
    with pytest.raises(UserError, match="data 'list' holds no rows"):
        ids([], renderer)


def test_columns_that_json_cannot_hold_come_as_they_are_and_are_not_kept(renderer: Renderer, own_cache: Path) -> None:
    day, both = datetime.date(2020, 1, 2), (1, 2)
    rows = [{"prompt": "When?", "day": day}, {"prompt": "Which?"}, {"prompt": "Both?", "both": both}]
    prepared = prepare(rows, PROMPT, renderer, "raise")
    found = [{**row.columns, "messages": None} for row in prepared.rows.at(prepared.rows.places[::-1])]
    assert found == [{"both": both, "messages": None}, {"messages": None}, {"day": day, "messages": None}]
    assert not kept(own_cache)


def test_a_pair_is_its_answers_up_to_their_ends_and_its_prompt_is_where_both_begin(renderer: Renderer) -> None:
    rows = [{"prompt": "Why?", "chosen": "So.", "rejected": "No, no.", "margin": 0.5, "id": 7}]
    (pair,) = prepare(rows, PAIRS, renderer, "raise").rows
    for answer, found in (("So.", pair.chosen), ("No, no.", pair.rejected)):
        whole = renderer.conversation([{"role": "user", "content": "Why?"}, {"role": "assistant", "content": answer}])
        assert (found.ids.tolist(), found.loss_mask.tolist()) == whole
    assert pair.margin == 0.5


def test_rows_that_are_too_long_are_left_out_and_all_of_them_is_an_error(
    path: str, renderer: Renderer, caplog: pytest.LogCaptureFixture
) -> None:
    prepared: Prepared = prepare(path, demonstrations(), renderer, "raise")
    lengths = [len(row.ids) for row in prepared.rows]
    assert lengths == sorted(lengths)
    short = fitting("rows", prepared.rows, lengths[2])
    assert [len(row.ids) for row in short] == lengths[:3]
    assert f"rows: left out 2 of 5 rows, longer than {lengths[2]} tokens" in caplog.text
    with pytest.raises(UserError, match="rows: all 5 rows are longer than 1 tokens: raise the limit"):
        fitting("rows", prepared.rows, 1)
