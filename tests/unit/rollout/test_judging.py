"""The reward is asked beside the sampling, with the same calls as without a thread."""

import threading
from concurrent.futures import CancelledError

import pytest
import torch

from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Answers, Scores, Sequences
from lightning_rlhf.rollout.judging import Judge


def about(number: int) -> Answers:
    ids = torch.full((1, 2), number)
    return Answers(Sequences(ids, ids > -1, ids[:, 1:] > -1), [f"prompt {number}"], [f"response {number}"], [{}])


def score_of(number: int) -> Scores:
    return Scores(torch.tensor([float(number)]), {})


def test_the_caller_goes_on_while_a_function_scores() -> None:
    may_answer = threading.Event()

    def slow(answers: Answers) -> Scores:
        assert may_answer.wait(timeout=60)
        return score_of(int(answers.sequences.input_ids[0, 0]))

    with Judge(slow, beside=True) as judge:
        fetch = [judge(about(number)) for number in range(3)]
        # With a call that waits for its scores, this line would not be reached.
        may_answer.set()
        assert [each().whole.tolist() for each in fetch] == [[0.0], [1.0], [2.0]]


def test_a_function_is_asked_in_order_and_never_twice_at_a_time() -> None:
    calls: list[str] = []
    # The first call waits for the second one, which must not come before the first has returned.
    second = threading.Event()

    def recorded(answers: Answers) -> Scores:
        if calls:
            second.set()
        calls.append(f"begins {answers.prompts[0]}")
        if len(calls) == 1:
            assert not second.wait(timeout=0.3), "a second call has begun"
        calls.append(f"ends {answers.prompts[0]}")
        return score_of(0)

    with Judge(recorded, beside=True) as judge:
        for each in [judge(about(number)) for number in range(4)]:
            each()
    assert calls == [f"{word} prompt {number}" for number in range(4) for word in ("begins", "ends")]


def test_a_source_with_several_threads_is_asked_as_often_at_a_time() -> None:
    # Each call waits for the two others.
    together = threading.Barrier(3, timeout=20)

    def waits(answers: Answers) -> Scores:
        together.wait()
        return score_of(int(answers.sequences.input_ids[0, 0]))

    with Judge(waits, beside=True, calls=3) as judge:
        fetch = [judge(about(number)) for number in range(6)]
        assert [each().whole.tolist() for each in fetch] == [[float(number)] for number in range(6)]


@pytest.mark.parametrize("calls", [1, 2])
def test_whoever_asks_waits_while_too_many_questions_are_waiting(calls: int) -> None:
    may_answer, asked = threading.Event(), list[int]()

    def slow(answers: Answers) -> Scores:
        assert may_answer.wait(timeout=60)
        return score_of(0)

    def ask(judge: Judge) -> None:
        for number in range(5 * calls + 1):
            judge(about(number))
            asked.append(number)

    with Judge(slow, beside=True, calls=calls) as judge:
        sampling = threading.Thread(target=ask, args=(judge,))
        sampling.start()
        sampling.join(timeout=0.5)
        # Each thread has a question, and four wait for it.
        assert len(asked) == 5 * calls
        may_answer.set()
        sampling.join(timeout=60)
        assert len(asked) == 5 * calls + 1


def test_the_error_of_a_function_reaches_the_caller_as_it_is() -> None:
    error = UserError("reward: the function returned 2 scores for 3 responses")

    def fails(answers: Answers) -> Scores:
        raise error

    with Judge(fails, beside=True) as judge:
        fetch = judge(about(0))
        with pytest.raises(UserError) as caught:
            fetch()
    assert caught.value is error


def test_questions_that_have_not_begun_are_dropped_when_sampling_fails() -> None:
    asked, begun, may_end = [], threading.Event(), threading.Event()

    def slow(answers: Answers) -> Scores:
        asked.append(answers.prompts[0])
        begun.set()
        assert may_end.wait(timeout=60)
        return score_of(0)

    fetch = []

    def sampling_fails() -> None:
        with Judge(slow, beside=True) as judge:
            fetch.extend(judge(about(number)) for number in range(3))
            assert begun.wait(timeout=60)
            threading.Timer(0.2, may_end.set).start()
            raise RuntimeError("sampling has failed")

    with pytest.raises(RuntimeError, match="sampling has failed"):
        sampling_fails()
    assert asked == ["prompt 0"]
    with pytest.raises(CancelledError):
        fetch[2]()


def test_the_thread_records_no_gradients() -> None:
    with Judge(lambda _: score_of(int(torch.is_grad_enabled())), beside=True) as judge:
        assert judge(about(0))().whole.tolist() == [0.0]


def test_a_reward_with_models_is_asked_when_its_scores_are_fetched() -> None:
    threads = []

    def recorded(answers: Answers) -> Scores:
        threads.append(threading.current_thread())
        return score_of(7)

    with Judge(recorded, beside=False) as judge:
        fetch = judge(about(0))
        assert not threads
        assert fetch().whole.tolist() == [7.0]
    assert threads == [threading.current_thread()]


def test_after_a_failure_sampling_does_not_go_on_until_its_end() -> None:
    failed = threading.Event()

    def fails(answers: Answers) -> Scores:
        try:
            raise UserError("no server")
        finally:
            failed.set()

    def sample(judge: Judge) -> None:
        judge(about(0))
        assert failed.wait(timeout=60)
        # The future is done a moment after the function.
        for number in range(1, 100_000):
            judge(about(number))

    with Judge(fails, beside=True) as judge, pytest.raises(UserError, match="^no server$"):
        sample(judge)
