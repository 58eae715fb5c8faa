"""Functions that a setting names: how they are found, what they get, and messages about wrong options."""

import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from lightning_rlhf.errors import UserError
from lightning_rlhf.registry import arguments, option_problems, registered

SHARED = {"gamma": 0.5, "gae_lambda": 0.9}


def trimmed(
    example: Any, *, gamma: float, share: float, side: Literal["low", "high"] = "low", least: int | None = None
) -> str:
    """Uses one of the shared settings, and has three of its own, one of which is required."""
    if share > 1:
        raise ValueError(f"share={share}: must lie in [0, 1]")
    return f"{example} {gamma} {share} {side} {least}"


def plain(example: Any) -> str:
    return str(example)


def problems(**options: Any) -> list[str]:
    return list(option_problems("advantage=trimmed", trimmed, SHARED, options, "example"))


def test_a_function_gets_its_options_and_those_of_the_shared_settings_that_it_declares() -> None:
    assert trimmed("x", **arguments(trimmed, SHARED, {"share": 0.25, "least": 2})) == "x 0.5 0.25 low 2"
    assert arguments(plain, SHARED) == {}


def test_options_that_fit_are_no_problem() -> None:
    assert problems(share=1) == problems(share=0.5, side="high", least=None) == problems(share=0.5, least=3) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "options.share is not set: advantage=trimmed needs it"),
        ({"share": "0.5"}, "options.share=0.5: advantage=trimmed expects a number"),
        ({"share": True}, "options.share=True: advantage=trimmed expects a number"),
        ({"share": [0.5]}, "options.share=[0.5]: advantage=trimmed expects a number"),
        ({"share": 0.5, "least": 1.5}, "options.least=1.5: advantage=trimmed expects a whole number or null"),
        ({"share": 0.5, "side": "left"}, "options.side=left: advantage=trimmed expects one of low, high"),
        (
            {"share": 0.5, "leest": 1},
            "options.leest=1: the options of advantage=trimmed are share, side, least; did you mean options.least?",
        ),
        (
            {"share": 0.5, "gamma": 1.0},
            "options.gamma=1.0: gamma is not an option but a setting of its own; set gamma=1.0",
        ),
        ({"share": 2.0}, "advantage=trimmed: share=2.0: must lie in [0, 1]"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_expected(options: dict[str, Any], expected: str) -> None:
    assert problems(**options) == [expected]


def test_a_function_without_options_says_so() -> None:
    assert list(option_problems("policy=plain", plain, SHARED, {"x": 1}, None)) == [
        "options.x=1: the options of policy=plain are none"
    ]


def test_an_entry_is_found_by_its_name_alone_or_behind_the_module_that_enters_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"plain": plain}
    (tmp_path / "my_entries.py").write_text("import sys\nsys.entered = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "entered", False, raising=False)
    monkeypatch.delitem(sys.modules, "my_entries", raising=False)
    assert registered(table, "plain", "policy") is plain
    assert not sys.entered  # type: ignore[attr-defined]
    assert registered(table, "my_entries:plain", "policy") is plain
    assert sys.entered  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plane", "^policy=plane: expected one of plain, trimmed$"),
        ("math:plane", "^policy=math:plane: expected one of plain, trimmed$"),
        ("no_such_module:mine", "^policy=no_such_module:mine: cannot import 'no_such_module'; .* PYTHONPATH"),
    ],
)
def test_a_name_that_leads_nowhere_says_why(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        registered({"plain": plain, "trimmed": trimmed}, name, "policy")
