"""A user's own module is a reward through one call."""

from collections.abc import Callable
from functools import partial
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from lightning_rlhf import RewardNet, WeightedSum, load_reward
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Answers
from lightning_rlhf.rewards.build import as_reward

MakeAnswers = Callable[..., Answers]
ROWS = {
    "My kettle leaks.": "I am sorry to hear that.",
    "Hello": "Go away, and do not come back",
    "Hi": "To help the ke",
}


class Positions(nn.Module):
    """Scores each real token by its position among them, or gives the number of real tokens of the row."""

    def __init__(self, *, each_token: bool) -> None:
        super().__init__()
        self.each_token = each_token

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return attention_mask.cumsum(1) * attention_mask if self.each_token else attention_mask.sum(1, keepdim=True)


@pytest.mark.parametrize("each_token", [True, False])
def test_a_module_of_ids_scores_what_the_actor_wrote(
    each_token: bool, renderer: Renderer, make_answers: MakeAnswers
) -> None:
    answers = make_answers(ROWS, cut=(2,))
    reward = as_reward(RewardNet(Positions(each_token=each_token)), renderer)
    # The padding is on the left of prompts and on the right of responses: neither counts.
    whole = reward(answers).whole
    assert whole.tolist() == answers.sequences.attention_mask.sum(1).tolist()
    # The module returns whole numbers, and scores are averaged.
    assert whole.dtype == torch.float32


@torch.no_grad()
def test_a_classifier_of_transformers_gives_the_scores_of_a_loaded_reward_model(
    exported: str, renderer: Renderer, make_answers: MakeAnswers
) -> None:
    answers = make_answers(ROWS, cut=(2,))
    classifier = AutoModelForSequenceClassification.from_pretrained(exported)
    expected = as_reward(load_reward(exported), renderer)(answers).whole
    assert_close(as_reward(RewardNet(classifier), renderer)(answers).whole, expected)
    assert_close(as_reward(lambda: RewardNet(classifier), renderer)(answers).whole, expected)
    built = RewardNet(partial(AutoModelForSequenceClassification.from_pretrained, exported))
    assert_close(as_reward(built, renderer)(answers).whole, expected)


@torch.no_grad()
def test_a_model_with_its_own_tokenizer_reads_the_text(
    foreign: str, renderer: Renderer, make_answers: MakeAnswers
) -> None:
    answers = make_answers(ROWS, cut=(2,))
    expected = as_reward(load_reward(foreign), renderer)(answers).whole
    classifier = AutoModelForSequenceClassification.from_pretrained(foreign)
    own = RewardNet(classifier, AutoTokenizer.from_pretrained(foreign))
    assert_close(as_reward(own, renderer)(answers).whole, expected)


def test_it_is_part_of_a_sum_and_of_the_tree_of_modules(renderer: Renderer, make_answers: MakeAnswers) -> None:
    net, answers = Positions(each_token=False), make_answers(ROWS)
    total = as_reward(WeightedSum({"own": RewardNet(net)}, {"own": 0.5}), renderer)
    assert net in cast(nn.Module, total).modules()
    assert total(answers).whole.tolist() == (answers.sequences.attention_mask.sum(1) / 2).tolist()


class Twice(nn.Module):
    """Two numbers for each row, which are no scores."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return input_ids.new_zeros((2, len(input_ids)))


class AsTuple(nn.Module):
    """A tuple, as many modules return it."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor]:
        return (input_ids[:, 0],)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Twice(), r"Twice returned Tensor of shape \(2, 3\) for ids of shape \(3, \d+\): expected \(3,\) scores"),
        (AsTuple(), r"AsTuple returned tuple for ids of shape"),
    ],
)
def test_what_is_not_one_score_for_each_row_is_refused(
    net: nn.Module, message: str, renderer: Renderer, make_answers: MakeAnswers
) -> None:
    with pytest.raises(UserError, match=message):
        as_reward(RewardNet(net), renderer)(make_answers(ROWS))


def test_models_that_give_no_single_score_are_refused(
    exported: str, folder_of_a_language_model: str, renderer: Renderer
) -> None:
    three = AutoModelForSequenceClassification.from_pretrained(exported, num_labels=3, ignore_mismatched_sizes=True)
    language_model = AutoModelForCausalLM.from_pretrained(folder_of_a_language_model)
    for net in (three, language_model):
        with pytest.raises(UserError, match=f"{type(net).__name__} with num_labels=. is not a reward model: expected"):
            as_reward(RewardNet(net), renderer)
    with pytest.raises(UserError, match=r"built 'models/reward', which is not a torch\.nn\.Module"):
        as_reward(RewardNet(lambda: "models/reward"), renderer)  # type: ignore[arg-type, return-value]
