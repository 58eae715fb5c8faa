"""What a run shows while it trains, where there is a terminal and where there is none."""

import io
import re
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import tiny_source

from lightning_rlhf.callbacks import PhaseProgress, SamplePreview
from lightning_rlhf.callbacks.heartbeat import Heartbeat
from lightning_rlhf.callbacks.pace import Pace
from lightning_rlhf.callbacks.phase_bar import PhaseBar
from lightning_rlhf.callbacks.sample_preview import split_at_answer, text_of_turns
from lightning_rlhf.console import console
from lightning_rlhf.data.kinds import Conversation
from lightning_rlhf.errors import UserError
from lightning_rlhf.hooks import StepNumbers


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the console prints, on something that is no terminal."""
    screen = io.StringIO()
    monkeypatch.setattr(console, "_file", screen)
    return screen


def trainer(**changes: Any) -> Any:
    defaults = {
        "global_step": 0,
        "current_epoch": 0,
        "max_epochs": 2,
        "num_training_batches": 8,
        "estimated_stepping_batches": 16,
        "sanity_checking": False,
        "callback_metrics": {},
        "is_global_zero": True,
    }
    return SimpleNamespace(**(defaults | changes))


def numbers(loss: float = 6.25) -> StepNumbers:
    return StepNumbers(1, torch.tensor(loss), {"actor": 1e-6, "critic": 5e-4}, 3.5, torch.tensor(12345.6))


def take_steps(progress: PhaseProgress, running: Any, count: int) -> None:
    for _ in range(count):
        running.global_step += 1
        progress.on_step_numbers(running, None, numbers())  # type: ignore[arg-type]
        progress.on_train_batch_end(running)


def test_without_a_terminal_a_line_says_where_the_run_stands(screen: io.StringIO) -> None:
    progress, running = PhaseProgress(log_every=3), trainer()
    progress.on_train_start(running, None)  # type: ignore[arg-type]
    progress.on_train_epoch_start(running, None)  # type: ignore[arg-type]
    take_steps(progress, running, 7)
    lines = screen.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2 update 3/8", "epoch 1/2 update 6/8"]
    assert lines[0].split("  ")[1:3] == ["loss 6.25", "lr 1e-06"]
    assert lines[0].split("  ")[3].startswith("ETA 0:00:")
    assert lines[0].split("  ")[4:] == ["steps/s 3.5", "tokens/s 12,346"]


def test_the_update_goes_on_after_an_evaluation_within_an_epoch(screen: io.StringIO) -> None:
    progress, running = PhaseProgress(log_every=2), trainer(num_val_batches=[5])
    progress.on_train_epoch_start(running, None)  # type: ignore[arg-type]
    take_steps(progress, running, 2)
    progress.on_validation_start(running, None)  # type: ignore[arg-type]
    progress.on_validation_batch_end()
    progress.on_train_batch_start(running, None, None, batch_idx=2)  # type: ignore[arg-type]
    take_steps(progress, running, 2)
    titles = [line.split("  ")[0] for line in screen.getvalue().splitlines()]
    assert titles == ["epoch 1/2 update 2/8", "epoch 1/2 update 4/8"]


def test_the_line_of_an_epoch_counts_as_a_line(screen: io.StringIO) -> None:
    progress, running = PhaseProgress(log_every=3), trainer(callback_metrics={"train/loss": torch.tensor(6.25)})
    for epoch in range(2):
        running.current_epoch = epoch
        progress.on_train_epoch_start(running, None)  # type: ignore[arg-type]
        take_steps(progress, running, 2)
        progress.on_train_epoch_end(running, None)  # type: ignore[arg-type]
    assert screen.getvalue().splitlines() == ["epoch 1/2  loss 6.25", "epoch 2/2  loss 6.25"]


def test_other_processes_print_nothing_but_read_the_metrics(screen: io.StringIO) -> None:
    class Running(SimpleNamespace):
        reads = 0

        @property
        def callback_metrics(self) -> dict[str, float]:
            self.reads += 1
            return {"train/loss": 6.25}

    progress, running = (
        PhaseProgress(log_every=1),
        Running(**{k: v for k, v in vars(trainer()).items() if k != "callback_metrics"}),
    )
    progress.disable()
    progress.on_fit_start(running, None)  # type: ignore[arg-type]
    progress.on_train_epoch_start(running, None)  # type: ignore[arg-type]
    take_steps(progress, running, 2)
    progress.on_train_epoch_end(running, None)  # type: ignore[arg-type]
    # Lightning averages over all processes when the metrics are read.
    assert running.reads == 1
    assert screen.getvalue() == ""
    assert not progress.heartbeat.thread.is_alive()


def test_a_line_comes_in_time_even_while_a_rollout_takes_long() -> None:
    rang = threading.Event()
    heartbeat = Heartbeat(0.02, rang.set)
    heartbeat.start()
    assert rang.wait(30)
    # A program that fails does not wait for it.
    assert heartbeat.thread.daemon
    heartbeat.stop()
    heartbeat.thread.join(30)
    assert not heartbeat.thread.is_alive()


def test_a_line_comes_when_none_was_printed_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, beats = SimpleNamespace(now=0.0), []
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    heartbeat = Heartbeat(10, lambda: beats.append(clock.now))
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        if not waits:
            heartbeat.last = clock.now + 6
        waits.append(seconds)
        clock.now += seconds
        return len(waits) == 4

    monkeypatch.setattr(heartbeat.ended, "wait", wait)
    heartbeat._run()
    # Something is printed after 6 seconds, so the first line comes 10 seconds later.
    assert beats == [16, 26]
    assert waits == [10, 6, 10, 10]


def test_the_time_left_follows_from_what_this_process_has_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    # A resumed run: 20 of 100 steps are done, and 10 more take 50 seconds.
    pace = Pace(begun=20, total=100)
    assert pace.time_left() == ""
    clock.now += 50
    pace.measure(30)
    assert pace.time_left() == "0:05:50"  # 70 steps of 5 seconds
    clock.now += 60
    assert pace.time_left() == "0:04:50"
    clock.now += 1000
    assert pace.time_left() == "0:00:00"
    for total in (float("inf"), -1):
        endless = Pace(begun=0, total=total)
        endless.measure(10)
        assert endless.time_left() == ""


@pytest.mark.parametrize("width", [120, 100, 60, 40, 25])
def test_the_bar_shows_whole_numbers_only_and_stays_on_one_line(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    for name, value in {"_file": screen, "_force_terminal": True, "_width": width, "_height": 30}.items():
        monkeypatch.setattr(console, name, value)
    cells = [("loss", "6.25"), ("lr", "1e-06"), ("ETA", "0:12:31"), ("steps/s", "3.5"), ("tokens/s", "12,345")]
    bar = PhaseBar(lambda: cells)
    bar.phase("iteration 12/100 rollout", None)
    bar.phase("iteration 12/100 update", 400, done=16)
    bar.advance()
    assert bar.title() == "iteration 12/100 update 17/400"
    assert bar.progress is not None
    with console.capture() as captured:
        console.print(bar.progress.get_renderable())
    bar.close()
    (line,) = captured.get().splitlines()
    assert len(line) <= width
    assert "17/400" in line or width < 60
    shown = [f"{label} {value}" for label, value in cells if f"{label} " in line]
    assert all(cell in line for cell in shown)
    # The most important ones come first, and at 100 columns four have space.
    assert shown == [f"{label} {value}" for label, value in cells[: len(shown)]]
    assert len(shown) >= {120: 4, 100: 3}.get(width, 0)


def test_the_time_of_a_phase_comes_first_if_its_end_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_file": io.StringIO(), "_force_terminal": True, "_width": 100, "_height": 30}.items():
        monkeypatch.setattr(console, name, value)
    bar = PhaseBar(lambda: [("loss", "6.25")])
    bar.phase("export", None)
    assert bar.title() == "export"
    assert bar.progress is not None
    with console.capture() as captured:
        console.print(bar.progress.get_renderable())
    bar.close()
    assert re.search(r"0/\?.* 0:00:\d\d +loss 6\.25", captured.get())


@pytest.mark.parametrize("settings", [{"log_every": 0}, {"every_seconds": 0.0}])
def test_impossible_intervals_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must be positive"):
        PhaseProgress(**settings)


def test_a_preview_shows_the_first_answers_with_their_scores(screen: io.StringIO) -> None:
    samples = [{"prompt": f"Why {i}?", "response": f"So\n {i}.", "score": -7e-5, "gold": 1.0} for i in range(9)]
    for running in (trainer(), trainer(is_global_zero=False)):
        SamplePreview(num_rows=2).on_evaluation_end(running, None, 1, samples)  # type: ignore[arg-type]
    assert screen.getvalue().splitlines() == [
        "  Why 0? → So 0.  (score 0, gold 1)",
        "  Why 1? → So 1.  (score 0, gold 1)",
    ]


def test_a_long_preview_stays_on_its_line(screen: io.StringIO) -> None:
    samples = [{"prompt": "why " * 200 + "is it?", "response": "It " + "so " * 200, "score": 0.5}]
    SamplePreview().on_evaluation_end(trainer(), None, 1, samples)  # type: ignore[arg-type]
    (line,) = screen.getvalue().splitlines()
    assert 100 < len(line) <= 160
    # The end of a prompt tells most, and the beginning of an answer.
    assert "is it? → It so" in line


def test_a_preview_of_no_rows_shows_nothing_and_a_negative_number_is_refused(screen: io.StringIO) -> None:
    SamplePreview(num_rows=0).on_evaluation_end(trainer(), None, 1, [{"prompt": "a", "response": "b"}])  # type: ignore[arg-type]
    assert screen.getvalue() == ""
    with pytest.raises(UserError, match="callbacks.preview.num_rows=-1"):
        SamplePreview(num_rows=-1)


def test_a_conversation_is_split_before_its_last_answer() -> None:
    ids = torch.arange(10, 19).numpy()
    # A prompt, an answer, a prompt, an answer, and something after it.
    mask = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1, 0], dtype=torch.bool).numpy()
    prompt, answer = split_at_answer(Conversation(ids, mask))
    assert prompt.tolist() == [10, 11, 12, 13, 14, 15]
    assert answer.tolist() == [16, 17]


def test_the_turns_of_a_prompt_are_apart_where_only_control_tokens_separate_them() -> None:
    tokenizer = tiny_source().load_tokenizer()
    end = tokenizer.eos_token_id
    turns = [tokenizer.encode(text, add_special_tokens=False) for text in ("Why?", "So.", "Sure?")]
    assert text_of_turns([*turns[0], end, *turns[1], end, end, *turns[2]], tokenizer) == "Why? So. Sure?"
