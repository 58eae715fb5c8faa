"""The settings of sampling."""

from typing import Any

import pytest

from lightning_rlhf.errors import UserError
from lightning_rlhf.rollout.sampling import Sampling


def test_impossible_settings_are_named_all_at_once() -> None:
    with pytest.raises(UserError) as caught:
        Sampling(
            max_new_tokens=0,
            temperature=-1.0,
            top_k=-2,
            top_p=0.0,
            min_p=1.0,
            repetition_penalty=0.0,
            stop=["Human:", ""],
        )
    names_and_values = ("max_new_tokens=0", "temperature=-1.0", "top_k=-2", "top_p=0.0", "min_p=1.0")
    for name_and_value in (*names_and_values, "repetition_penalty=0.0", "stop=['Human:', '']"):
        assert name_and_value in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}, {"repetition_penalty": 1.1}]
)
def test_a_rollout_samples_from_the_whole_distribution(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match="it must be the whole one"):
        Sampling(max_new_tokens=4, **settings).check_for_rollout()
    Sampling(max_new_tokens=4, temperature=0.7, stop=["Human:"]).check_for_rollout()


@pytest.mark.parametrize("stop", ["Human:", None, 3])
def test_what_is_not_a_list_of_texts_is_refused_by_name(stop: Any) -> None:
    with pytest.raises(UserError, match=f"^stop={stop!r}: must be a list of texts"):
        Sampling(max_new_tokens=4, stop=stop)


def test_an_export_names_a_setting_that_differs_from_that_of_transformers() -> None:
    plain = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    assert Sampling(max_new_tokens=4, stop=["Human:"]).generation_settings(limited=False) == plain
    settings = Sampling(max_new_tokens=4, min_p=0.1, repetition_penalty=1.2).generation_settings(limited=True)
    assert settings == plain | {"max_new_tokens": 4, "min_p": 0.1, "repetition_penalty": 1.2}
    greedy = Sampling(max_new_tokens=4, temperature=0, repetition_penalty=1.2).generation_settings(limited=False)
    assert greedy == {"do_sample": False, "repetition_penalty": 1.2}
