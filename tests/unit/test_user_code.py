"""The user's own lines are shown of an error in the user's code."""

import json
from pathlib import Path

import pytest

from lightning_rlhf.errors import UserError
from lightning_rlhf.user_code import import_module, told


def raised_in(file: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is told of an error in a function that stands in a file and is called from here."""
    monkeypatch.chdir(file.parents[-2])
    names: dict = {}
    exec(compile("def inner():\n    return {}['key']\n", str(file), "exec"), names)
    with pytest.raises(KeyError) as error:
        names["inner"]()
    return told(error.value)


def test_frames_of_installed_packages_are_counted_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = raised_in(tmp_path / "site-packages" / "library.py", monkeypatch)
    assert "test_user_code.py" in shown
    assert "library.py" not in shown
    assert shown.endswith("(1 more frames, of libraries or further out: HYDRA_FULL_ERROR=1 shows them)")


def test_the_users_frames_are_shown_from_the_outermost_to_the_innermost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = raised_in(tmp_path / "mine.py", monkeypatch).splitlines()
    assert lines[0] == "KeyError: 'key'"
    assert [line.rpartition(" in ")[2] for line in lines if line.startswith("  ") and " in " in line] == [
        "raised_in",
        "inner",
    ]


def test_an_error_that_lies_in_a_library_alone_shows_its_innermost_frame() -> None:
    with pytest.raises(json.JSONDecodeError) as found:
        json.loads("x")
    # Without the frame of this test, all others are of Python's own json.
    shown = told(found.value.with_traceback(found.value.__traceback__.tb_next)).splitlines()
    assert [line.rpartition(" in ")[2] for line in shown if " in " in line] == ["raw_decode"]


def test_of_a_deep_recursion_the_six_innermost_frames_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep.py").write_text("def deep(n):\n    return deep(n - 1) if n else 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError) as found:
        import_module("deep", "reward.function").deep(20)
    shown = told(found.value).splitlines()
    assert sum(line.endswith(" in deep") for line in shown) == 6
    # The other frames are this test and the 15 outer ones of 21 calls.
    assert shown[-1].startswith("  (16 more frames,")


def test_a_mistake_that_a_module_reports_itself_is_told_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from lightning_rlhf.errors import UserError\nraise UserError('set API_KEY')\n"
    (tmp_path / "strict_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="^set API_KEY$"):
        import_module("strict_module", "reward.function")
