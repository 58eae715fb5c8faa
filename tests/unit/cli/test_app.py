"""A mistake of the user is reported in one message, and a defect keeps its traceback."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf.errors import OmegaConfBaseException

from lightning_rlhf.assembly.user_message import user_message
from lightning_rlhf.cli import app
from lightning_rlhf.cli.app import exit_codes, run_app
from lightning_rlhf.errors import UserError
from lightning_rlhf.interruption import Interrupted


def raised(function: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as error:  # noqa: PT011
        function()
    return error.value


def a_mistake() -> None:
    raise UserError("data.path is not set")


def a_wrapped_mistake() -> None:
    try:
        a_mistake()
    except UserError as error:
        raise RuntimeError("rank 0 failed") from error


def a_defect_while_a_mistake_is_handled() -> None:
    try:
        a_mistake()
    finally:
        raise KeyError("val/loss")


def a_defect() -> None:
    raise IndexError("list index out of range")


def a_wrong_value(lr: float) -> None:
    raise ValueError(f"Invalid learning rate: {lr}")


@pytest.mark.parametrize("mistake", [a_mistake, a_wrapped_mistake])
def test_a_mistake_of_the_user_is_told_through_what_was_raised_from_it(mistake: Callable) -> None:
    assert user_message(raised(mistake)) == "data.path is not set"


def test_a_defect_while_a_mistake_is_handled_is_no_mistake_of_the_user() -> None:
    error = raised(a_defect_while_a_mistake_is_handled)
    assert isinstance(error.__context__, UserError)
    assert user_message(error) is None
    with pytest.raises(KeyError), exit_codes():
        raise error


def test_neither_is_a_defect_in_what_the_configuration_builds() -> None:
    assert user_message(raised(lambda: instantiate({"_target_": f"{__name__}.a_defect"}))) is None
    wrong = {"optim": {"_target_": f"{__name__}.a_wrong_value", "lr": -1}}
    assert user_message(raised(lambda: instantiate(wrong))) == "optim: Invalid learning rate: -1"
    told = user_message(raised(lambda: instantiate({"_target_": f"{__name__}.a_mistake"})))
    assert told == "data.path is not set"
    absent = user_message(raised(lambda: instantiate({"model": {"_target_": "no.such.class"}})))
    assert absent is not None
    assert absent.startswith("model: ")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_is_one_line_and_the_code_of_a_shell(
    number: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left, exit_codes():
        raise Interrupted(number, "interrupted; resume with: …")
    assert left.value.code == code
    assert capsys.readouterr().err == "interrupted; resume with: …\n"


def a_signal_within_a_library() -> None:
    # The handler of the signal raises in the middle of OmegaConf's work; what OmegaConf does then raises on its own.
    try:
        try:
            raise Interrupted(signal.SIGHUP)
        finally:
            raise AttributeError("'NoneType' object has no attribute '_invalidate_flags_cache'")
    except AttributeError as error:
        raise OmegaConfBaseException(str(error)) from error


def test_a_signal_within_a_library_whose_cleaning_up_fails_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, exit_codes():
        a_signal_within_a_library()
    assert left.value.code == 129
    assert capsys.readouterr().err == "interrupted\n"


def test_only_the_first_of_several_processes_says_that_the_run_was_interrupted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as left, exit_codes():
        raise Interrupted(signal.SIGTERM, "")
    assert left.value.code == 143
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("program", ["/usr/bin", str(Path(app.__file__).parent)])
def test_modules_in_the_current_folder_are_found_first_whatever_the_program(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plan.py").write_text("WHOSE = 'the user'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [program, *sys.path])
    monkeypatch.delitem(sys.modules, "plan", raising=False)
    # The files of our commands have such names too.
    run_app(lambda: exec("import plan; assert plan.WHOSE == 'the user'"))
    assert sys.path.count(str(tmp_path)) == 1
    del sys.modules["plan"]
