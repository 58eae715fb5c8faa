"""The web application of a reward model; tests/integration/test_serve_reward.py tests the whole command."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from torch import Tensor

from lightning_rlhf import HTTPReward
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.rewards.net import TextNetReward
from lightning_rlhf.rewards.server import make_app


class Watched(TextNetReward):
    """Records how many answers it gets at a time, and how many batches are scored at the same time."""

    sizes: list[int]
    most = now = 0

    def score(self, conversations: Sequence[Any], finished: Sequence[bool]) -> Tensor:
        self.sizes.append(len(conversations))
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.05)
        scores = super().score(conversations, finished)
        self.now -= 1
        return scores


def test_however_many_clients_there_are_one_batch_at_a_time_goes_through_the_model(
    net: ScalarModel, renderer: Renderer, serving: Callable[..., str]
) -> None:
    reward = Watched(net, renderer, renderer.stop_ids)
    reward.sizes = []
    url = serving(make_app(reward, "reward", batch_size=2)) + "/score"
    with ThreadPoolExecutor(4) as pool:
        scores = list(pool.map(lambda _: HTTPReward(url)(["Hello"] * 3, ["Go away", "Hello", ""]), range(4)))
    assert sorted(reward.sizes) == [1, 1, 1, 1, 2, 2, 2, 2]
    assert reward.most == 1
    assert scores[0] == scores[1] == scores[2] == scores[3]


def test_scores_that_are_no_numbers_are_an_error_of_the_server(
    net: ScalarModel, renderer: Renderer, serving: Callable[..., str]
) -> None:
    class Broken(TextNetReward):
        def score(self, conversations: Sequence[Any], finished: Sequence[bool]) -> Tensor:
            return super().score(conversations, finished) / 0 * 0

    url = serving(make_app(Broken(net, renderer, renderer.stop_ids), "models/reward", batch_size=2)) + "/score"
    with pytest.raises(UserError, match="status 500 .*models/reward gives scores that are not finite"):
        HTTPReward(url, retries=0)(["Hello"], ["Go away"])


def test_the_model_does_not_go_on_for_a_client_who_has_left(
    net: ScalarModel, renderer: Renderer, serving: Callable[..., str]
) -> None:
    reward = Watched(net, renderer, renderer.stop_ids)
    reward.sizes = []
    url = serving(make_app(reward, "reward", batch_size=1)) + "/score"
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url, json={"prompts": ["Hello"] * 200, "responses": ["Wait."] * 200}, timeout=0.5)
    # Waits for the batch that goes through the model; all 200 would take ten seconds.
    assert len(HTTPReward(url)(["Hello"], ["Go away"])) == 1
    at_first = len(reward.sizes)
    time.sleep(0.5)
    assert len(reward.sizes) == at_first < 100
