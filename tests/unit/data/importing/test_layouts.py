"""Rows of public data sets, written by hand in their layouts, and what becomes of them."""

from collections import Counter
from typing import Any

import pytest

from lightning_rlhf.data.importing.convert import LAYOUTS
from lightning_rlhf.data.importing.rows import Dropped


def converted(layout: str, *rows: dict[str, Any]) -> tuple[dict[str, list[dict[str, Any]]], Counter[str]]:
    """Returns the rows of each file, and how often each reason to drop something was given."""
    files: dict[str, list[dict[str, Any]]] = {}
    dropped: Counter[str] = Counter()
    for found in LAYOUTS[layout].convert(rows):
        if isinstance(found, Dropped):
            dropped[found.reason] += 1
        else:
            files.setdefault(found[0], []).append(found[1])
    return files, dropped


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


HELLO = "\n\nHuman: Hello\n\nAssistant: Hi.\n\nHuman: Why?\n\nAssistant: "


def test_hh_becomes_pairs_of_the_last_answers_to_one_conversation() -> None:
    files, dropped = converted("hh", {"chosen": f"{HELLO}Because.", "rejected": f"{HELLO}No."})
    prompt = [user("Hello"), assistant("Hi."), user("Why?")]
    assert files == {"preferences": [{"prompt": prompt, "chosen": "Because.", "rejected": "No."}]}
    assert not dropped


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (f"{HELLO}Yes.", f"{HELLO}Yes. ", "both answers are equal"),
        (f"{HELLO}Yes.", HELLO, "an answer is empty"),
        (f"{HELLO}Yes.", "\n\nHuman: Bye\n\nAssistant: No.", "the conversations differ before the last turn"),
        ("Yes.", "No.", "chosen or rejected is no transcript"),
        (f"{HELLO}A\n\nHuman: B", f"{HELLO}A\n\nHuman: C", "the last turn is not the assistant's"),
    ],
)
def test_a_row_of_hh_that_is_no_pair_is_dropped_with_the_reason(chosen: str, rejected: str, reason: str) -> None:
    assert converted("hh", {"chosen": chosen, "rejected": rejected}) == ({}, {reason: 1})


@pytest.mark.parametrize(("label", "chosen", "rejected"), [(1, "A", "B"), (0, "B", "A")])
def test_the_label_of_shp_says_whether_the_first_comment_is_preferred(label: int, chosen: str, rejected: str) -> None:
    row = {"history": "Q?", "human_ref_A": "A", "human_ref_B": "B", "labels": label, "score_ratio": 2.5, "domain": "d"}
    files, _ = converted("shp", row)
    expected = {"prompt": [user("Q?")], "chosen": chosen, "rejected": rejected, "source": "d", "score_ratio": 2.5}
    assert files == {"preferences": [expected]}


def test_a_row_of_shp_without_a_label_is_dropped() -> None:
    assert converted("shp", {"history": "Q?", "human_ref_A": "A", "human_ref_B": "B"})[1] == {
        "labels is neither 0 nor 1": 1
    }


def test_an_input_of_alpaca_follows_its_instruction() -> None:
    rows = [
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        {"instruction": "Greet.", "input": "<noinput>", "output": "Hi."},
        {"instruction": "Nothing", "input": "", "output": " "},
    ]
    files, dropped = converted("alpaca", *rows)
    assert [row["prompt"][0]["content"] for row in files["demonstrations"]] == ["Add.\n\n1 and 2", "Greet."]
    assert [row["completion"] for row in files["demonstrations"]] == ["3", "Hi."]
    assert files["prompts"] == [{"prompt": row["prompt"]} for row in files["demonstrations"]]
    assert dropped == {"the output is empty": 1}


def test_earlier_turns_and_instructions_of_a_copy_of_alpaca_become_turns() -> None:
    row = {"instruction": "Why?", "input": "n/a", "output": "So.", "system": "Rhyme.", "history": [["Hello", "Hi."]]}
    files, _ = converted("alpaca", row)
    prompt = [{"role": "system", "content": "Rhyme."}, user("Hello"), assistant("Hi."), user("Why?")]
    assert files == {"demonstrations": [{"prompt": prompt, "completion": "So."}], "prompts": [{"prompt": prompt}]}


@pytest.mark.parametrize(
    ("layout", "row", "reason"),
    [
        ("alpaca", {"instruction": "Q?", "output": "A", "history": [["Hello"]]}, "not a pair of a question"),
        ("hh", {"chosen": f"{HELLO}\ud83d", "rejected": f"{HELLO}No."}, "field 'chosen' contains half a character"),
        ("rewardbench", {"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}, "'prompt.content' is missing"),
        (
            "ultrafeedback",
            {"chosen": [{"role": "judge", "content": "a"}], "rejected": []},
            "field 'chosen.role' is text, expected system",
        ),
    ],
)
def test_rows_that_no_stage_could_read_are_dropped_with_one_reason_for_all(
    layout: str, row: dict[str, Any], reason: str
) -> None:
    files, dropped = converted(layout, row, row)
    assert not files
    ((found, count),) = dropped.items()
    assert (reason in found, count) == (True, 2)


def test_half_a_character_in_a_message_of_openassistant_drops_the_message() -> None:
    rows = [message("q0", None, "Q?"), message("a0", "q0", "one", 0), message("a1", "q0", "\ud83d", 1)]
    files, dropped = converted("openassistant", *rows)
    assert files.keys() == {"prompts", "demonstrations"}
    assert dropped == {"field 'text' contains half a character, which no tokenizer accepts": 1}


def test_ultrafeedback_keeps_each_score_and_makes_pairs_of_answers_whose_scores_differ() -> None:
    scores: dict[str, Any] = {"good": 8, "fair": "5.5", "as good": 8.0, "unrated": "N/A"}
    completions = [{"response": text, "overall_score": score} for text, score in scores.items()]
    files, dropped = converted("ultrafeedback", {"instruction": "Q?", "source": "s", "completions": completions})
    assert [(row["completion"], row["score"]) for row in files["scores"]] == [
        ("good", 8.0),
        ("fair", 5.5),
        ("as good", 8.0),
    ]
    assert [(row["chosen"], row["rejected"]) for row in files["preferences"]] == [("good", "fair"), ("as good", "fair")]
    assert {row["source"] for name in files for row in files[name]} == {"s"}
    assert dropped == {
        "an answer has no overall_score": 1,
        "two answers have the same score, so they make no pair": 1,
    }


def test_binarized_ultrafeedback_becomes_pairs() -> None:
    chosen, rejected = [user("Q?"), assistant("good")], [user("Q?"), assistant("bad")]
    row = {"prompt": "Q?", "chosen": chosen, "rejected": rejected, "score_chosen": 8.5, "score_rejected": 4.0}
    files, dropped = converted("ultrafeedback", row, {**row, "score_rejected": 8.5})
    expected = {"prompt": [user("Q?")], "chosen": "good", "rejected": "bad", "score_chosen": 8.5, "score_rejected": 4.0}
    assert files == {"preferences": [expected]}
    assert dropped == {"two answers have the same score, so they make no pair": 1}


def test_rewardbench_keeps_the_subset_as_the_source() -> None:
    files, _ = converted("rewardbench", {"prompt": "Q?", "chosen": "a", "rejected": "b", "subset": "refusals"})
    assert files == {"preferences": [{"prompt": [user("Q?")], "chosen": "a", "rejected": "b", "source": "refusals"}]}


def test_rewardbench_2_keeps_the_best_of_four_and_makes_a_pair_with_each_wrong_answer() -> None:
    row = {"prompt": "Q?", "chosen": ["a"], "rejected": ["b", "c", "d"], "subset": "math"}
    files, _ = converted("rewardbench2", row)
    prompt = [user("Q?")]
    assert files["best_of"] == [{"prompt": prompt, "chosen": ["a"], "rejected": ["b", "c", "d"], "source": "math"}]
    assert [(pair["chosen"], pair["rejected"]) for pair in files["preferences"]] == [("a", "b"), ("a", "c"), ("a", "d")]


def message(name: str, parent: str | None, text: str, rank: int | None = None, **others: Any) -> dict[str, Any]:
    """A message of OpenAssistant; the names of questions begin with q."""
    role = "prompter" if name[0] == "q" else "assistant"
    return {"message_id": name, "parent_id": parent, "role": role, "text": text, "rank": rank, **others}


# The best answer to the first question is a1, and people went on from both answers.
FLAT = [
    message("q0", None, "First?"),
    message("a0", "q0", "worse", 1),
    message("a1", "q0", "better", 0),
    message("a2", "q0", "deleted", 2, deleted=True),
    message("q1", "a1", "Second?"),
    message("a3", "q1", "last"),
    message("q2", "a0", "Aside?"),
    message("a4", "q2", "aside, good", 0),
    message("a5", "q2", "aside, bad", 1),
]


def nested(rows: list[dict[str, Any]], parent: str | None) -> list[dict[str, Any]]:
    own = [row for row in rows if row["parent_id"] == parent]
    return [{**row, "replies": nested(rows, row["message_id"])} for row in own]


@pytest.mark.parametrize("form", ["messages", "trees"])
def test_openassistant_becomes_best_paths_ranked_pairs_and_prompts(form: str) -> None:
    rows = FLAT if form == "messages" else [{"prompt": tree} for tree in nested(FLAT, None)]
    files, dropped = converted("openassistant", *rows)
    first = [user("First?")]
    second = [*first, assistant("better"), user("Second?")]
    aside = [*first, assistant("worse"), user("Aside?")]
    assert files["demonstrations"] == [{"messages": [*second, assistant("last")]}]
    assert files["preferences"] == [
        {"prompt": first, "chosen": "better", "rejected": "worse"},
        {"prompt": aside, "chosen": "aside, good", "rejected": "aside, bad"},
    ]
    assert [row["prompt"] for row in files["prompts"]] == [first, aside, second]
    assert dropped == {"the message was deleted": 1}


def test_a_message_of_openassistant_whose_parent_is_missing_is_dropped() -> None:
    _, dropped = converted("openassistant", *FLAT[1:])
    # a0, a1 and a2 answer q0; what follows them cannot be reached.
    assert dropped == {"the message that it answers is not among the rows": 3}


def test_answers_of_openassistant_with_the_same_rank_make_no_pair() -> None:
    rows = [message("q0", None, "Q?"), message("a0", "q0", "one", 0), message("a1", "q0", "other", 0)]
    files, dropped = converted("openassistant", *rows)
    assert "preferences" not in files
    assert dropped == {"two answers have the same rank, so they make no pair": 1}
