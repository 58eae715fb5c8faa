"""Links of a run card to the files of its run."""

from pathlib import Path

import pytest

from lightning_rlhf.report.links import _files_of


@pytest.mark.parametrize("name", ["model", "model_best", "model_ema", "adapter", "adapter_best", "adapter_ema"])
def test_every_folder_that_a_run_exports_has_a_link(name: str, tmp_path: Path) -> None:
    assert not _files_of(tmp_path, tmp_path, None)
    (tmp_path / name).mkdir()
    assert [link.href for link in _files_of(tmp_path, tmp_path, None)] == [f"./{name}/"]


@pytest.mark.parametrize("name", ["train.log", "metrics.csv", "samples.jsonl", "result.json", "config.yaml"])
def test_every_file_that_a_run_writes_has_a_link(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert [link.href for link in _files_of(tmp_path, tmp_path, None)] == [f"./{name}"]
