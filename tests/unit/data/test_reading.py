"""What a stage tells of its rows: how many were read, skipped, held out, and what an epoch makes of the rest."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from lightning_rlhf.data import PreferenceDataModule, PromptDataModule, Reading, Renderer, SFTDataModule
from lightning_rlhf.errors import UserError

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]


@pytest.fixture
def renderer(make_tokenizer: MakeTokenizer) -> Renderer:
    return Renderer(make_tokenizer())


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Ten pairs to train on, of which one is wrong and one is long, and three to hold out."""
    rows = [{"question": f"Why {n}?", "good": f"So {n}.", "bad": "No.", "id": n} for n in range(10)]
    rows[3]["good"] = ""
    rows[4]["good"] = "So " * 300
    for name, some in (("train", rows), ("test", [{**row, "question": f"How {row['id']}?"} for row in rows[:3]])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return str(tmp_path)


COLUMNS = {"prompt": "question", "chosen": "good", "rejected": "bad"}
MODULES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "sft": (SFTDataModule, {"minibatch_size": 3}),
    "preference": (PreferenceDataModule, {"minibatch_size": 3}),
    "prompts": (PromptDataModule, {}),
}


def told(caplog: pytest.LogCaptureFixture, data: Any) -> list[str]:
    """What is told while the data are set up, without the names of the data."""
    with caplog.at_level(logging.INFO, logger="lightning_rlhf.data"):
        data.setup("fit")
    return [record.getMessage().rpartition("/")[2] for record in caplog.records]


@pytest.mark.parametrize("stage", MODULES)
def test_every_stage_says_what_became_of_its_rows(
    folder: str, renderer: Renderer, caplog: pytest.LogCaptureFixture, stage: str
) -> None:
    make, settings = MODULES[stage]
    data = make(folder, renderer, reading=Reading(columns=COLUMNS), on_error="skip", **settings)
    lines = told(caplog, data)
    assert any(line.endswith("(train): 10 rows read") for line in lines)
    assert any(line.endswith("(test): 3 rows read") for line in lines)
    used = 10 if stage == "prompts" else 9
    assert any(line.endswith(f"(train): column 'id' is not part of the conversation: {used}") for line in lines)
    if stage == "prompts":
        # Prompts need no answers, so no row is wrong or long.
        assert lines[-1] == "10 rows to train on, 3 held out"
        return
    assert any("skipped 1 wrong row: train.jsonl:4: field 'chosen' holds an empty answer" in line for line in lines)
    assert lines[-1] == "9 rows to train on, 3 held out; an epoch has 3 minibatches of 3"


def test_the_end_of_an_epoch_is_told(folder: str, renderer: Renderer, caplog: pytest.LogCaptureFixture) -> None:
    settings: dict[str, Any] = {"reading": Reading(columns=COLUMNS), "on_error": "skip", "max_length": 60}
    whole = SFTDataModule(folder, renderer, minibatch_size=5, **settings)
    lines = told(caplog, whole)
    assert "train): left out 1 of 9 rows, longer than 60 tokens" in " ".join(lines)
    assert lines[-1] == "8 rows to train on, 3 held out; an epoch has 1 minibatch of 5, and one of the other 3"
    dropped = SFTDataModule(folder, renderer, minibatch_size=5, drop_last=True, **settings)
    assert told(caplog, dropped)[-1].endswith("1 minibatch of 5, and leaves 3 rows unseen (drop_last=true)")
    trainer = SimpleNamespace(world_size=1, global_rank=0, accumulate_grad_batches=1)
    for data, sizes in ((whole, [5, 3]), (dropped, [5])):
        data.trainer = trainer  # type: ignore[assignment]
        assert [len(batch.input_ids) for batch in data.train_dataloader()] == sizes  # type: ignore[attr-defined]


def test_splits_that_are_not_read_are_named(folder: str, renderer: Renderer, caplog: pytest.LogCaptureFixture) -> None:
    (Path(folder) / "dev.jsonl").write_text((Path(folder) / "test.jsonl").read_text())
    data = PromptDataModule(folder, renderer, reading=Reading(columns=COLUMNS))
    assert any(line.endswith("(train): not read: test") for line in told(caplog, data))
    assert len(data.val_prompts) == 3


def test_held_out_data_of_their_own_come_first(folder: str, renderer: Renderer) -> None:
    rows = [{"question": "Who?"}]
    data = PromptDataModule(folder, renderer, val_path=rows, reading=Reading(columns=COLUMNS))
    data.setup("fit")
    assert [prompt.text for prompt in data.val_prompts] == ["Who?"]
    assert len(data.train_prompts) == 10


def test_an_error_names_the_field_of_the_user_in_the_mapping(folder: str, renderer: Renderer) -> None:
    data = SFTDataModule(folder, renderer, reading=Reading(columns={"prompt": "question", "completion": "answer"}))
    with pytest.raises(UserError, match="(?s)field 'completion' is missing.*'answer'.*data.columns"):
        data.setup("fit")
