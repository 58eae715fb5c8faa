"""The reward for sentiment."""

from hydra import compose, initialize_config_module
from hydra.utils import instantiate


def test_kind_answers_score_above_plain_ones_and_those_above_rude_ones() -> None:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        reward = instantiate(compose("train", ["reward=sentiment"]).reward)
    answers = [
        "I am so glad that you asked, what a great idea!",
        "The table has four legs.",
        "That is a terrible mess.",
    ]
    kind, plain, rude = reward(["Well?"] * 3, answers, [{}] * 3)
    assert 1 >= kind > 0.5
    assert plain == 0
    assert -1 <= rude < -0.3
