"""The phases of an iteration, with a clock that the test moves."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_rlhf.benchmark import stopwatch
from lightning_rlhf.benchmark.gemm import wait
from lightning_rlhf.benchmark.stopwatch import Stopwatch, TimedEngine


class Engine:
    """An engine whose calls take known times."""

    shares_weights = True

    def __init__(self, clock: SimpleNamespace) -> None:
        self.clock = clock

    def generate(self, requests: Any, sampling: Any, *, stop_ids: tuple[int, ...], decode: Any) -> list[str]:
        self.clock.now += 3
        return list(requests)

    def iterate(self, requests: Any, sampling: Any, *, stop_ids: tuple[int, ...], decode: Any) -> Iterator[str]:
        for request in requests:
            self.clock.now += 5
            yield request
        self.clock.now += 1

    def update_weights(self, weights: Any, version: int) -> None:
        self.taken = []
        for weight in weights:
            self.clock.now += 0.5
            self.taken.append(weight)
        self.clock.now += 0.5

    def resume(self) -> None:
        self.clock.now += 2

    def release(self) -> None:
        self.clock.now += 4


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: clock.now)
    return clock


def timed(clock: SimpleNamespace, watch: Stopwatch) -> TimedEngine:
    engine: Any = watch.timed(lambda net, device: Engine(clock))(torch.nn.Identity(), torch.device("cpu"))  # type: ignore[arg-type, return-value]
    return engine


def test_the_time_between_two_responses_is_not_that_of_the_engine(clock: SimpleNamespace) -> None:
    watch = Stopwatch()
    engine: Any = timed(clock, watch)
    for _ in engine.iterate(["a", "b"], None, stop_ids=()):
        clock.now += 70
    assert watch.sampling == 5 + 5 + 1
    assert engine.generate(["a"], None, stop_ids=()) == ["a"]
    engine.update_weights(iter([]), 1)
    assert watch.sampling == 11 + 3 + 0.5


def test_the_time_in_which_sharded_weights_are_gathered_is_not_that_of_the_engine(clock: SimpleNamespace) -> None:
    def gathered() -> Iterator[str]:
        for name in ("a", "b"):
            clock.now += 40
            yield name
        clock.now += 40

    watch = Stopwatch()
    engine: Any = timed(clock, watch)
    engine.update_weights(gathered(), 1)
    assert engine.taken == ["a", "b"]
    assert watch.sampling == 0.5 + 0.5 + 0.5


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps", "xpu"])
def test_the_clock_waits_for_every_device_that_works_by_itself(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    wait(torch.device(kind))
    assert waited == ([] if kind == "cpu" else [torch.device(kind)])


def test_what_is_not_measured_is_the_engine_itself(clock: SimpleNamespace) -> None:
    assert timed(clock, Stopwatch()).shares_weights
    with pytest.raises(AttributeError, match="unknown"):
        _ = timed(clock, Stopwatch()).unknown


def test_the_phases_of_an_iteration_add_up(clock: SimpleNamespace) -> None:
    watch = Stopwatch()
    engine, module = timed(clock, watch), SimpleNamespace(device=torch.device("cpu"))
    # A row with two prompt tokens after one of padding and three response tokens, and one with three and one.
    response = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    attention = torch.cat([torch.tensor([[0, 1, 1], [1, 1, 1]]).bool(), response], dim=1)
    sequences = SimpleNamespace(response_mask=response, attention_mask=attention)
    rollout: Any = SimpleNamespace(
        experience=SimpleNamespace(sequences=sequences), rescored=torch.tensor([False, True])
    )
    for update in (20, 30):
        watch.on_train_epoch_start(None, module)  # type: ignore[arg-type]
        engine.generate([], None, stop_ids=())  # type: ignore[arg-type]
        clock.now += 7
        watch.on_rollout_end(None, module, rollout)  # type: ignore[arg-type]
        clock.now += update
        watch.on_train_epoch_end(None, module)  # type: ignore[arg-type]
    assert [one.seconds for one in watch.iterations] == [
        {"rollout": 3, "score": 7, "update": 20},
        {"rollout": 3, "score": 7, "update": 30},
    ]
    assert watch.iterations[0].prompts == [2, 3]
    assert watch.iterations[0].responses == [3, 1]
    assert watch.iterations[0].rescored == [False, True]


def test_whoever_listens_hears_of_each_phase_that_begins(clock: SimpleNamespace) -> None:
    heard: list[str] = []
    watch = Stopwatch(heard.append)
    engine = timed(clock, watch)

    def gathered() -> Iterator[str]:
        heard.append("weights are gathered")
        yield "weight"

    engine.update_weights(gathered(), 1)  # type: ignore[arg-type]
    # Others gather the weights, also when they find that there are no more.
    gathering = ["score", "weights are gathered", "rollout", "score", "rollout"]
    assert heard == ["rollout", *gathering, "score"]


def test_an_engine_that_wakes_up_and_falls_asleep_is_at_work(clock: SimpleNamespace) -> None:
    watch = Stopwatch()
    engine = timed(clock, watch)
    engine.resume()
    clock.now += 70
    engine.release()
    assert watch.sampling == 2 + 4
