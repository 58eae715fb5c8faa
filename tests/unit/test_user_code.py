"""The user's own lines are shown of an error in the user's code."""

from pathlib import Path

import pytest

from lightning_rlhf.user_code import told


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
