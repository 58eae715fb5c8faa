"""Rows with all columns that the public data sets have, stored as on the hub, become what the stages read."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from lightning_rlhf.assembly.import_dataset import import_dataset
from lightning_rlhf.data.formats import Need, read_records

_TIME = "2023-02-05T14:23:50.983374+00:00"


def _turns(*texts: str) -> list[dict[str, str]]:
    return [{"content": text, "role": ("user", "assistant")[n % 2]} for n, text in enumerate(texts)]


def _completion(response: str, score: float | None) -> dict[str, Any]:
    rating = {"Rating": "4", "Rationale": "r"}
    return {
        "annotations": {name: rating for name in ("helpfulness", "honesty", "instruction_following", "truthfulness")},
        "critique": "c",
        "custom_system_prompt": "s",
        "fine-grained_score": 4.25,
        "model": "m",
        "overall_score": score,
        "principle": "helpfulness",
        "response": response,
    }


def _message(name: str, parent: str | None, role: str, text: str, rank: int | None) -> dict[str, Any]:
    return {
        "message_id": name,
        "parent_id": parent,
        "user_id": "u",
        "created_date": _TIME,
        "text": text,
        "role": role,
        "lang": "en",
        "review_count": 3,
        "review_result": True if parent else None,
        "deleted": False,
        "rank": rank,
        "synthetic": False,
        "model_name": None,
        "detoxify": {"toxicity": 0.0004, "severe_toxicity": 0.00003},
        "message_tree_id": "q",
        "tree_state": "ready_for_export",
        "emojis": {"name": ["+1"], "count": [2]},
        "labels": {"name": ["spam", "quality"], "value": [0.0, 0.75], "count": [3, 3]},
    }


MESSAGES = [
    _message("q", None, "prompter", "Why is the sky blue?", None),
    _message("a", "q", "assistant", "It scatters blue light most.", 0),
    _message("b", "q", "assistant", "It mirrors the sea.", 1),
]
ROWS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "hh": (
        "hh",
        [
            {
                "chosen": "\n\nHuman: Hello\n\nAssistant: Hi.\n\nHuman: A human: what is it?\n\nAssistant: An animal.",
                "rejected": "\n\nHuman: Hello\n\nAssistant: Hi.\n\nHuman: A human: what is it?\n\nAssistant: No.",
            }
        ],
    ),
    "shp": (
        "shp",
        [
            {
                "post_id": "qt3nxl",
                "domain": "askculinary_train",
                "upvote_ratio": 0.98,
                "history": "How do I descale a kettle?",
                "c_root_id_A": "hkh25sc",
                "c_root_id_B": "hkh25lp",
                "created_at_utc_A": 1636822112,
                "created_at_utc_B": 1636822110,
                "score_A": 340,
                "score_B": 166,
                "human_ref_A": "With vinegar.",
                "human_ref_B": "Why?",
                "labels": 1,
                "seconds_difference": 2.0,
                "score_ratio": 2.0481927711,
            }
        ],
    ),
    "alpaca": (
        "alpaca",
        [{"instruction": "Add.", "input": "1 and 2", "output": "3", "text": "Below is an instruction. ### Response:3"}],
    ),
    "openassistant": ("openassistant", MESSAGES),
    "ultrafeedback": (
        "ultrafeedback",
        [
            {
                "source": "evol_instruct",
                "instruction": "Name a metal.",
                "models": ["m", "n", "o"],
                "completions": [_completion("Iron.", 8.5), _completion("Wood.", 1), _completion("Tin.", None)],
                "correct_answers": ["None"],
                "incorrect_answers": ["None"],
            }
        ],
    ),
    "ultrafeedback_binarized": (
        "ultrafeedback",
        [
            {
                "prompt": "Name a metal.",
                "prompt_id": "0f7b",
                "chosen": _turns("Name a metal.", "Iron."),
                "rejected": _turns("Name a metal.", "Wood."),
                "messages": _turns("Name a metal.", "Iron."),
                "score_chosen": 8.5,
                "score_rejected": 1.0,
            }
        ],
    ),
    "rewardbench": (
        "rewardbench",
        [
            {
                "prompt": "Name a metal.",
                "chosen": "Iron.",
                "chosen_model": "m",
                "rejected": "Wood.",
                "rejected_model": "n",
                "subset": "alpacaeval-easy",
                "id": 0,
            }
        ],
    ),
    "rewardbench2": (
        "rewardbench2",
        [
            {
                "id": "ref:0",
                "prompt": "Name a colour of the rainbow.",
                "chosen": ["Red.", "Blue."],
                "rejected": ["Black.", "Brown."],
                "num_correct": 2,
                "num_incorrect": 2,
                "total_completions": 4,
                "models": ["m", "m", "m", "m"],
                "subset": "Ties",
                "additional_metadata": {"category": None, "correct": None},
            }
        ],
    ),
}
EXPECTED: dict[str, dict[str, tuple[Need, int]]] = {
    "hh": {"preferences": ("pair", 1)},
    "shp": {"preferences": ("pair", 1)},
    "alpaca": {"demonstrations": ("completion", 1), "prompts": ("prompt", 1)},
    "openassistant": {"demonstrations": ("completion", 1), "preferences": ("pair", 1), "prompts": ("prompt", 1)},
    "ultrafeedback": {"preferences": ("pair", 1), "scores": ("score", 2)},
    "ultrafeedback_binarized": {"preferences": ("pair", 1)},
    "rewardbench": {"preferences": ("pair", 1)},
    "rewardbench2": {"preferences": ("pair", 4)},
}


def imported(layout: str, path: Path, **settings: Any) -> Path:
    defaults: dict[str, Any] = {"split": None, "config_name": None, "where": None, "limit": None}
    return import_dataset(layout, str(path), str(path.parent / "out"), **(defaults | settings))


@pytest.mark.parametrize("name", ROWS)
def test_a_whole_row_in_a_parquet_file_becomes_rows_that_the_stages_read(name: str, tmp_path: Path) -> None:
    layout, rows = ROWS[name]
    file = tmp_path / "data.parquet"
    Dataset.from_list(rows).to_parquet(str(file))
    folder = imported(layout, file)
    written = {path.stem for path in folder.glob("*.jsonl")} - {"best_of"}
    assert written == EXPECTED[name].keys()
    for stem, (need, count) in EXPECTED[name].items():
        assert len(read_records(str(folder / f"{stem}.jsonl"), need).rows) == count
    assert (folder / "best_of.jsonl").exists() == (name == "rewardbench2")


def test_a_file_of_trees_is_filtered_by_the_language_of_their_first_messages(tmp_path: Path) -> None:
    names = ("message_id", "text", "role", "lang", "review_count", "review_result", "deleted", "rank", "synthetic")
    root, *answers = ({name: message[name] for name in names} | {"replies": []} for message in MESSAGES)
    trees = [
        {
            "message_tree_id": lang,
            "tree_state": "ready_for_export",
            "prompt": {**root, "lang": lang, "replies": answers},
        }
        for lang in ("en", "de", "en")
    ]
    file = tmp_path / "ready.trees.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, trees)).encode()))
    folder = imported("openassistant", file, where={"lang": "en"})
    assert json.loads((folder / "result.json").read_text())["metrics"] == {
        "read": 3,
        "kept": {"prompts": 2, "preferences": 2, "demonstrations": 2},
        "dropped": {"lang is not en": 1},
    }
