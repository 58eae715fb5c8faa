import pytest

from lightning_rlhf.rollout.evaluate import Sample, summarize


def sample(prompt: str, gold: float, row: int = 0, **more: object) -> Sample:
    return {"row": row, "prompt": prompt, "response": "r", "length": 4, "finish_reason": "stop", "gold": gold, **more}


def test_the_gold_rate_counts_answers_that_meet_it_fully() -> None:
    metrics = summarize([sample("a", 1.0), sample("b", 0.75), sample("c", 1.0), sample("d", 0.0)])
    assert metrics["gold_rate"] == 0.5
    assert "gold_win_rate" not in metrics


def test_the_mean_of_the_gold_metric_goes_by_the_name_that_the_metric_brings() -> None:
    answers = [sample("a", 1.0), sample("b", 0.5)]
    assert summarize(answers)["gold_mean"] == 0.75
    metrics = summarize([answer | {"gold_name": "optimality"} for answer in answers])
    assert metrics["optimality"] == 0.75
    assert "gold_mean" not in metrics


def test_a_win_is_beating_the_answer_to_the_same_prompt_and_a_tie_counts_half() -> None:
    before = [sample("a", 0.5, 0), sample("b", 1.0, 1), sample("c", 0.5, 2), sample("unseen", 0.0, 3)]
    after = [sample("a", 1.0, 0), sample("b", 1.0, 1), sample("c", 0.25, 2)]
    # One is won, one tied and one lost: (1 + 0.5 + 0) / 3.
    assert summarize(after, before)["gold_win_rate"] == pytest.approx(0.5)


def test_a_model_wins_half_against_itself_where_prompts_occur_more_than_once() -> None:
    answers = [sample("abc"[row % 3], gold, row) for row, gold in enumerate([0.3, 1.0, 0.0, 0.9, 0.2, 0.7, 0.1, 0.4])]
    assert summarize(answers, answers)["gold_win_rate"] == 0.5
    # Row 4 goes from 0.2 to 0.3, and row 3 from 0.9 to 0.8: one wins, one loses, and six are equal.
    other = [answer | {"gold": {3: 0.8, 4: 0.3}.get(answer["row"], answer["gold"])} for answer in answers]
    assert summarize(other, answers)["gold_win_rate"] == 0.5
    # Of rows 0 to 5, whose answers are known, one wins.
    del other[3]
    assert summarize(other, answers[:6])["gold_win_rate"] == pytest.approx((1 + 4 * 0.5) / 5)


def test_answers_to_other_prompts_are_not_compared() -> None:
    assert "gold_win_rate" not in summarize([sample("a", 1.0)], [sample("b", 0.0)])


def test_what_is_not_known_is_left_out() -> None:
    plain = {"prompt": "a", "response": "r", "length": 3, "finish_reason": "length"}
    assert summarize([plain, plain | {"length": 5, "finish_reason": "stop"}]) == {
        "response_length": 4.0,
        "eos_rate": 0.5,
    }


def test_score_and_kl_are_averaged() -> None:
    metrics = summarize([sample("a", 1.0, score=1.0, kl=2.0), sample("b", 1.0, score=2.0, kl=4.0)])
    assert (metrics["score"], metrics["kl"]) == (1.5, 3.0)
