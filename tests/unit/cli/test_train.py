"""What `train` leaves behind when a signal ends it."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError

from lightning_rlhf.callbacks.run_record import status_of
from lightning_rlhf.cli import train
from lightning_rlhf.interruption import STOPPING, Interrupted


@pytest.fixture(autouse=True)
def handlers_restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def fail_while_stopped(config: DictConfig) -> None:
    """What OmegaConf does if a signal leaves one of its nodes half-made."""
    try:
        raise Interrupted(signal.SIGTERM)
    except Interrupted:
        raise ConfigKeyError("a node is half-made")  # noqa: B904


def test_a_signal_that_a_library_turns_into_an_error_leaves_an_interrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "check_same_stages", fail_while_stopped)
    config = OmegaConf.create({"stages": ["sft"], "seed": 1, "dry_run": False})
    with pytest.raises(Interrupted, match="interrupted; resume with") as stopped:
        train._train(config, tmp_path, [])
    assert stopped.value.number == signal.SIGTERM
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "interrupted"
    assert (tmp_path / "report.html").is_file()


def test_an_error_without_a_signal_stays_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "check_same_stages", lambda config: config.no_such_key)
    config = OmegaConf.create({"stages": ["sft"], "seed": 1, "dry_run": False}, flags={"struct": True})
    with pytest.raises(AttributeError, match="no_such_key"):
        train._train(config, tmp_path, [])
    assert not list(tmp_path.iterdir())


def test_the_record_of_a_stage_tells_a_signal_from_an_error() -> None:
    with pytest.raises(ConfigKeyError) as of_signal:
        fail_while_stopped(OmegaConf.create())
    assert status_of(of_signal.value) == "interrupted"
    assert status_of(ConfigKeyError("no signal")) == "failed"
