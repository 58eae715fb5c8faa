"""Scores of conversations, many at a time, beside those of the reward that PPO uses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.evaluation import scoring
from lightning_rlhf.evaluation.scoring import Text, rendered, score_ids
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rewards.build import LoadedReward
from lightning_rlhf.rewards.net import TextNetReward

TALKS: list[Any] = [
    [{"role": "user", "content": "My kettle leaks."}, {"role": "assistant", "content": answer}]
    for answer in ("Tighten the seal.", "No.", "Tighten the seal " * 5, "")
]


@pytest.fixture(scope="module")
def reward(make_source: Callable, make_scalar_model: Callable) -> LoadedReward:
    source: ModelSource = make_source("llama", vocab_size=814, max_position_embeddings=64)
    return LoadedReward(make_scalar_model(source), Renderer(source.load_tokenizer()))


def texts(rows: list[Text | UserError]) -> list[Text]:
    found = [row for row in rows if isinstance(row, Text)]
    assert len(found) == len(rows)
    return found


@pytest.mark.parametrize("finished", [[True] * 4, [False] * 4, [True, False, True, False]])
def test_scores_are_those_of_the_reward_in_ppo(finished: list[bool], reward: LoadedReward) -> None:
    with torch.no_grad():
        expected = TextNetReward(reward.net, reward.renderer, reward.renderer.stop_ids).score(TALKS, finished)
    found = score_ids(reward, [text.ids for text in texts(rendered(reward, TALKS, finished))])
    assert found == pytest.approx(expected.tolist(), abs=1e-4)
    assert expected.unique().diff().min() > 1e-3


def test_an_answer_that_was_cut_off_gets_no_stop_token(reward: LoadedReward) -> None:
    (whole,), (cut,) = (texts(rendered(reward, TALKS[:1], [end])) for end in (True, False))
    assert whole.ids[:-1] == cut.ids
    assert whole.ids[-1] in reward.renderer.stop_ids
    assert whole.answer_length == cut.answer_length + 1 == len(whole.ids) - len(reward.renderer.prompt(TALKS[0][:1]))
    assert texts(rendered(reward, TALKS[:1])) == [whole]


def test_batches_change_nothing(reward: LoadedReward, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [text.ids for text in texts(rendered(reward, TALKS * 3))]
    together = score_ids(reward, ids)
    monkeypatch.setattr(scoring, "_TOKENS_AT_A_TIME", 1)
    assert score_ids(reward, ids) == pytest.approx(together, abs=1e-4)


def test_what_the_model_cannot_read_is_an_error_in_its_place(reward: LoadedReward) -> None:
    long = [{"role": "user", "content": "kettle " * 80}, TALKS[0][1]]
    refused = [{"role": "system", "content": "Be kind."}, *TALKS[0]]
    first, second, third = rendered(reward, [long, TALKS[0], refused])
    assert isinstance(second, Text)
    assert "tokens, and the reward model reads at most 64" in str(first)
    assert "refuses" in str(third)


def test_scores_that_are_not_finite_are_refused(reward: LoadedReward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(reward.net), "scores", lambda self, ids, mask: torch.full((len(ids),), torch.nan))
    with pytest.raises(UserError, match="not finite"):
        score_ids(reward, [[1, 2]])
