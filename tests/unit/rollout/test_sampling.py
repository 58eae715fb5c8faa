"""The settings of sampling."""

import pytest

from lightning_rlhf.errors import UserError
from lightning_rlhf.rollout.sampling import Sampling


def test_impossible_settings_are_named_all_at_once() -> None:
    with pytest.raises(UserError) as caught:
        Sampling(max_new_tokens=0, temperature=-1.0, top_k=-2, top_p=0.0)
    for name_and_value in ("max_new_tokens=0", "temperature=-1.0", "top_k=-2", "top_p=0.0"):
        assert name_and_value in str(caught.value)


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.9}])
def test_a_rollout_samples_from_the_whole_distribution(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match="it must be the whole one"):
        Sampling(max_new_tokens=4, **settings).check_for_rollout()
    Sampling(max_new_tokens=4, temperature=0.7).check_for_rollout()
