"""Models that answer prompts ahead of the people."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from lightning_rlhf.data.formats import Record
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.engines.engine import Completion
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.web.label.items import Item
from lightning_rlhf.web.label.sampling import Sampler, Writer
from lightning_rlhf.web.label.supply import Stopped, Supply


def record(name: str) -> Record:
    return Record([{"role": "user", "content": name}], None, None, None, {}, f"prompts.jsonl:{name}")


PROMPTS = [record(name) for name in ("My kettle leaks.", "My door is stuck.", "Hello", "Hello", "What now?")]


@pytest.fixture
def writer(make_source: Callable[..., ModelSource], make_causal_lm: Callable[..., PreTrainedModel]) -> Writer:
    source = make_source("llama", vocab_size=814, max_position_embeddings=128)
    engine = NativeEngine(make_causal_lm(source), torch.device("cpu"))
    return Writer(engine, Renderer(source.load_tokenizer()), "model")


class Scripted:
    """An engine whose responses are given, by the attempt and the slot of the request."""

    def __init__(self, renderer: Renderer, texts: dict[tuple[int, int], str]) -> None:
        self.renderer, self.texts, self.asked = renderer, texts, list[tuple[int, ...]]()

    def iterate(self, requests: Any, sampling: Sampling, **_: Any) -> Iterator[Completion]:
        self.asked += [(*request.key.stream[1:], request.key.row) for request in requests]
        for number, request in reversed(list(enumerate(requests))):
            text = self.texts.get((request.key.stream[2], request.key.row), "")
            ids = [*self.renderer.tokenizer.encode(text, add_special_tokens=False), self.renderer.stop_ids[0]]
            yield Completion(number, ids, [0.0] * len(ids), "stop", 0)


def scripted(writer: Writer, texts: dict[tuple[int, int], str], name: str = "scripted") -> Any:
    """Makes a writer of given texts, with the tokens of another."""
    engine: Any = Scripted(writer.renderer, texts)
    return Writer(engine, writer.renderer, name)


def sampler(*writers: Writer, prompts: list[Record] = PROMPTS, **settings: Any) -> Sampler:
    usual = {
        "origin": "model",
        "sampling": Sampling(max_new_tokens=6),
        "max_prompt_length": 100,
        "seed": 1,
        "is_known": lambda name: False,
        "stop": threading.Event(),
    }
    return Sampler(lambda: writers, prompts, **(usual | settings))


def test_each_prompt_gets_different_answers_that_depend_on_the_seed_alone(writer: Writer) -> None:
    made = list(sampler(writer, writer, writer).items())
    assert [item.prompt[0]["content"] for item in made] == [
        "My kettle leaks.",
        "My door is stuck.",
        "Hello",
        "What now?",
    ]
    assert all(len({answer.text for answer in item.answers}) == 3 for item in made)
    assert {answer.source for item in made for answer in item.answers} == {"model"}
    # A server that is started again goes on with the other prompts, and they get the answers that they would have got.
    known = {item.id for item in made[:2]}
    again = sampler(writer, writer, writer, is_known=known.__contains__)
    assert again.remaining() == 2
    assert list(again.items()) == made[2:]
    assert list(sampler(writer, writer, writer, seed=2).items()) != made


def test_other_models_make_other_items_of_the_same_prompts(writer: Writer) -> None:
    one, other = (next(sampler(writer, writer, origin=origin).items()).id for origin in ("a", "b"))
    assert one != other


def test_empty_and_equal_answers_are_drawn_again(writer: Writer) -> None:
    texts = {(0, 0): "same", (0, 1): "same ", (1, 1): "", (2, 1): "other"}
    own = scripted(writer, texts)
    (item,) = sampler(own, own, prompts=[record("Hello")]).items()
    assert [answer.text for answer in item.answers] == ["same", "other"]
    # The prompt has number 0; only the second slot was drawn again.
    assert own.engine.asked == [(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 2, 1)]


def test_a_prompt_without_different_answers_is_left_out_and_counted(
    writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    own = scripted(writer, {(attempt, slot): "same" for attempt in range(9) for slot in range(2)})
    made = sampler(own, own, prompts=[record("Hello")])
    assert list(made.items()) == []
    assert made.left_out == {"all answers were empty or equal": 1}
    assert made.remaining() == 0
    assert caplog.messages == ["prompts that were left out: all answers were empty or equal: 1"]


def test_two_models_answer_in_their_own_places(writer: Writer) -> None:
    one, other = scripted(writer, {(0, 0): "from one"}, "one"), scripted(writer, {(0, 1): "from other"}, "other")
    for item in sampler(one, other).items():
        assert [(answer.text, answer.source) for answer in item.answers] == [
            ("from one", "one"),
            ("from other", "other"),
        ]


def test_long_prompts_are_left_out(writer: Writer) -> None:
    length = len(writer.renderer.prompt(PROMPTS[1].messages))
    made = sampler(writer, writer, max_prompt_length=length - 1, prompts=PROMPTS[1:3])
    assert [item.prompt[0]["content"] for item in made.items()] == ["Hello"]
    assert made.left_out == {f"longer than {length - 1} tokens": 1}


def test_an_answer_that_reached_the_limit_says_so(writer: Writer) -> None:
    made = list(sampler(writer, writer, sampling=Sampling(max_new_tokens=1)).items())
    assert made
    assert not any(answer.finished for item in made for answer in item.answers)


def test_a_stopped_sampler_ends_within_a_batch(writer: Writer) -> None:
    made = sampler(writer, writer)
    made._stop.set()
    with pytest.raises(Stopped):
        next(made.items())


def waits_until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_supply_keeps_some_items_ahead_and_goes_on_when_they_are_used(make_item: Callable[..., Item]) -> None:
    made, used = list[Item](), 0
    supply = Supply("writing")
    source = (make_item(name) for name in range(9))
    supply.start(source, made.append, lambda: len(made) - used >= 3, lambda: 9 - len(made))
    waits_until(lambda: len(made) == 3)
    assert supply.to_come() == 6
    used = 2
    waits_until(lambda: len(made) == 5)
    used = 9
    waits_until(lambda: len(made) == 9)
    supply.end()
    assert (supply.to_come(), supply.failure) == (0, "")


@pytest.mark.parametrize(
    ("error", "words"), [(UserError("run=x: no model"), "run=x: no model"), (RuntimeError("oom"), "RuntimeError: oom")]
)
def test_a_supply_that_fails_says_why_and_expects_nothing_more(
    error: Exception, words: str, make_item: Callable[..., Item]
) -> None:
    made = list[Item]()

    def broken() -> Iterator[Item]:
        yield make_item(0)
        raise error

    supply = Supply("writing")
    supply.start(broken(), made.append, lambda: False, lambda: 5)
    waits_until(lambda: supply.failure)
    assert (supply.failure, supply.to_come(), len(made)) == (words, 0, 1)
    supply.end()
