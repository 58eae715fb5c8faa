"""The objects that PPO accepts as a reward, and the scores that they give."""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_rlhf import TextReward, WeightedSum, load_reward
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Answers, Sequences
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.rewards.build import as_reward
from lightning_rlhf.rewards.net import NetReward, TextNetReward

MakeAnswers = Callable[..., Answers]
# The third answer reached the length limit in the middle of a word.
ROWS = {
    "My kettle leaks.": "I am sorry to hear that. Tighten the seal.",
    "My door is stuck. What should I do?": "Go away",
    "Hello": "To help the ke",
    "What now?": "",
}
CUT = (2,)
CHATML = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}"
    "{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def by_hand(net: ScalarModel, ids: list[int]) -> float:
    """Returns the score of one row without padding, at its last token."""
    row = torch.tensor([ids])
    return net(row, torch.ones_like(row, dtype=torch.bool))[0, -1].item()


def rendered_by_hand(renderer: Renderer, prompt: str, response: str, finished: bool) -> list[int]:
    """Returns the ids of prompt and response up to the stop token, which only finished responses have."""
    tokenizer = renderer.tokenizer
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}], tokenize=False
    )
    ids = tokenizer.encode(text[: text.rindex(tokenizer.eos_token)], add_special_tokens=False)
    return [*ids, tokenizer.eos_token_id] if finished else ids


@torch.no_grad()
def test_a_net_reads_the_ids_that_the_actor_wrote(
    net: ScalarModel, exported: str, renderer: Renderer, make_answers: MakeAnswers
) -> None:
    prompt = renderer.prompt([{"role": "user", "content": "Hello"}])
    # A text is encoded letter by letter, as the tokenizer would never do it.
    response = [token for letter in " seal" for token in renderer.tokenizer.encode(letter)]
    assert renderer.decode(response) == "seal"
    ids = torch.tensor([prompt + response])
    sequences = Sequences(ids, ids >= 0, torch.ones(1, len(response), dtype=torch.bool))
    answers = make_answers({"Hello": "seal"})._replace(sequences=sequences)
    for source in (net, load_reward(exported)):
        scores = as_reward(source, renderer)(answers)
        assert scores.total.item() == pytest.approx(by_hand(net, prompt + response), abs=1e-5)
        assert scores.parts == {}


@torch.no_grad()
@pytest.mark.parametrize("template", ["plain", CHATML, "raw"])
def test_a_net_with_another_tokenizer_reads_the_text_in_its_own_template(
    template: str, foreign: str, renderer: Renderer, make_answers: MakeAnswers
) -> None:
    loaded = load_reward(foreign, template=template)
    reward = as_reward(loaded, renderer)
    assert isinstance(reward, TextNetReward)
    scores = reward(make_answers(ROWS, CUT))
    for row, (prompt, response) in enumerate(ROWS.items()):
        ids = rendered_by_hand(loaded.renderer, prompt, response, finished=row not in CUT)
        assert scores.total[row].item() == pytest.approx(by_hand(loaded.net, ids), abs=1e-5), response


@torch.no_grad()
def test_a_net_with_another_template_alone_reads_the_text_too(
    net: ScalarModel, exported: str, renderer: Renderer, make_answers: MakeAnswers
) -> None:
    loaded = load_reward(exported, template=CHATML)
    assert loaded.renderer.tokenizer.chat_template == CHATML
    scores = as_reward(loaded, renderer)(make_answers({"Hello": "Go away"}))
    ids = rendered_by_hand(loaded.renderer, "Hello", "Go away", finished=True)
    assert scores.total.item() == pytest.approx(by_hand(net, ids), abs=1e-5)


def test_a_net_with_the_same_template_reads_the_text_if_its_tokens_are_others(
    exported: str, renderer: Renderer
) -> None:
    larger, other_end = load_reward(exported), load_reward(exported)
    assert isinstance(as_reward(larger, renderer), NetReward)
    larger.renderer.tokenizer.add_tokens(["kettles"])
    assert isinstance(as_reward(larger, renderer), TextNetReward)
    other_end.renderer.tokenizer.eos_token = "."
    assert isinstance(as_reward(other_end, renderer), TextNetReward)


@torch.no_grad()
def test_by_text_and_by_ids_are_the_same_where_the_tokenizers_are(
    net: ScalarModel, renderer: Renderer, make_answers: MakeAnswers
) -> None:
    answers = make_answers(ROWS, CUT)
    by_ids = NetReward(net)(answers).total
    by_text = TextNetReward(net, renderer, renderer.stop_ids)(answers).total
    assert_close(by_text, by_ids, atol=1e-5, rtol=1e-5)
    assert len(set(by_ids.tolist())) == len(ROWS)


@torch.no_grad()
def test_the_whole_conversation_is_scored_and_not_the_last_turn_alone(
    foreign: str, renderer: Renderer, make_answers: MakeAnswers
) -> None:
    answers = make_answers({"And now?": "Wait."})
    earlier = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}]
    longer = answers._replace(columns=[{"messages": [*earlier, *answers.columns[0]["messages"]]}])
    loaded = load_reward(foreign)
    text = "\n\nHuman: Hello\n\nAssistant: Hi.<end>\n\nHuman: And now?\n\nAssistant: Wait.<end>"
    ids = loaded.renderer.tokenizer.encode(text, add_special_tokens=False)
    assert as_reward(loaded, renderer)(longer).total.item() == pytest.approx(by_hand(loaded.net, ids), abs=1e-5)


def test_a_text_that_the_reward_model_cannot_hold_is_an_error(
    net: ScalarModel, renderer: Renderer, make_answers: MakeAnswers
) -> None:
    reward = TextNetReward(net, renderer, renderer.stop_ids)
    with pytest.raises(UserError, match=r"has 4\d\d tokens for the reward model, which reads at most 128"):
        reward(make_answers({"Hello": "kettle " * 400}))


def test_a_folder_that_is_no_reward_model_is_refused(folder_of_a_language_model: str) -> None:
    with pytest.raises(UserError, match="is not a trained reward model: it has no weights for score.weight"):
        load_reward(folder_of_a_language_model)
    with pytest.raises(UserError, match=r"^model_dir=./nowhere: no such folder"):
        load_reward("./nowhere", setting="model_dir")


@torch.no_grad()
def test_a_net_may_be_given_as_the_function_that_builds_it(
    net: ScalarModel, exported: str, renderer: Renderer, make_answers: MakeAnswers
) -> None:
    answers = make_answers({"Hello": "Go away"})
    expected = NetReward(net)(answers).total
    for builder in (lambda: net, partial(load_reward, exported, template=None)):
        reward = as_reward(builder, renderer)
        assert isinstance(reward, NetReward)
        assert_close(reward(answers).total, expected, atol=1e-5, rtol=1e-5)


def test_a_function_gets_texts_columns_messages_and_whether_the_response_is_finished(
    renderer: Renderer, make_answers: MakeAnswers
) -> None:
    seen: dict[str, Any] = {}

    def spy(prompts: list[str], responses: list[str], **columns: Any) -> list[float]:
        seen.update(columns, prompts=prompts, responses=responses)
        return [0.5, 1.0]

    reward = as_reward(TextReward(spy), renderer)
    assert not isinstance(reward, nn.Module)
    scores = reward(make_answers({"2+2?": "4", "2*3?": "5"}, (1,), answer=["4", "6"]))
    assert_close(scores.total, torch.tensor([0.5, 1.0]))
    assert scores.parts == {}
    assert seen == {
        "prompts": ["2+2?", "2*3?"],
        "responses": ["4", "5"],
        "answer": ["4", "6"],
        "finished": [True, False],
        "messages": [[{"role": "user", "content": "2+2?"}], [{"role": "user", "content": "2*3?"}]],
    }


def length(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(len(response)) for response in responses]


@torch.no_grad()
def test_a_sum_adds_its_parts_by_weight_and_keeps_each_before_its_weight(
    net: ScalarModel, foreign: str, renderer: Renderer, make_answers: MakeAnswers
) -> None:
    answers = make_answers(ROWS, CUT)
    parts = {"net": net, "text": partial(load_reward, foreign), "length": TextReward(length)}
    reward = as_reward(WeightedSum(parts, {"length": -0.01, "net": 2.0, "text": 0.5}), renderer)
    scores = reward(answers)
    expected = {name: as_reward(part, renderer)(answers).total for name, part in parts.items()}
    assert set(scores.parts) == set(parts)
    for name, score in expected.items():
        assert_close(scores.parts[name], score)
    assert_close(scores.total, 2.0 * expected["net"] + 0.5 * expected["text"] - 0.01 * expected["length"])


def test_the_nets_of_a_sum_are_in_the_tree_of_modules(net: ScalarModel, renderer: Renderer) -> None:
    inner = WeightedSum({"a": lambda: net, "length": TextReward(length)}, {"a": 1.0, "length": 1.0})
    reward = as_reward(WeightedSum({"inner": inner, "length": TextReward(length)}, {"inner": 1, "length": 1}), renderer)
    assert isinstance(reward, nn.Module)
    assert net in reward.modules()


def test_a_sum_without_nets_is_no_module(renderer: Renderer, make_answers: MakeAnswers) -> None:
    reward = as_reward(WeightedSum({"length": TextReward(length)}, {"length": 3.0}), renderer)
    assert not isinstance(reward, nn.Module)
    assert_close(reward(make_answers({"Hello": "1234"})).total, torch.tensor([12.0]))


def test_a_sum_says_all_that_is_wrong_with_its_names_and_weights() -> None:
    part = TextReward(length)
    with pytest.raises(UserError) as error:
        WeightedSum({"a": part, "b": part, "values": part, "c.d": part}, {"a": math.nan, "values": 1, "c.d": 1, "e": 1})
    assert str(error.value).splitlines() == [
        "weights.b is not set: give the weight of parts.b",
        "weights.e: there is no part of this name",
        "weights.a=nan: must be finite",
        "parts.values: choose another name",
        "parts.c.d: choose another name",
    ]
    with pytest.raises(UserError, match="a sum needs a part"):
        WeightedSum({}, {})


@pytest.mark.parametrize("wrong", [length, nn.Linear(1, 1), "models/reward", None])
def test_what_is_no_source_is_refused_with_what_would_be_one(wrong: Any, renderer: Renderer) -> None:
    with pytest.raises(UserError, match=r"^reward=.*a function of prompts and responses goes into TextReward"):
        as_reward(wrong, renderer)


def half(prompts: list[str], responses: list[str]) -> list[float | None]:
    """Scores every second response."""
    return [None if row % 2 else 2.0 for row in range(len(responses))]


def test_none_in_a_sum_adds_nothing_and_leaves_the_other_parts(renderer: Renderer, make_answers: MakeAnswers) -> None:
    parts = {"some": TextReward(half), "one": TextReward(lambda prompts, responses: [1.0] * len(responses))}
    scores = as_reward(WeightedSum(parts, {"some": 0.5, "one": 3.0}), renderer)(make_answers(ROWS, CUT))
    # 0.5 · 2 + 3 · 1, and 3 · 1 where the first part says nothing.
    assert scores.total.tolist() == [4.0, 3.0, 4.0, 3.0]
    assert scores.absent is None
    assert scores.parts["one"].tolist() == [1.0] * 4
    assert_close(scores.parts["some"], torch.tensor([2.0, math.nan, 2.0, math.nan]), equal_nan=True)


def test_none_alone_is_an_error_and_so_is_none_from_all_parts(renderer: Renderer, make_answers: MakeAnswers) -> None:
    answers = make_answers(ROWS, CUT)
    alone = "^half returned None, so nothing scores response 2 of 4, 'Go away'; None means"
    with pytest.raises(UserError, match=alone):
        as_reward(TextReward(half), renderer)(answers)
    both = WeightedSum({"a": TextReward(half), "b": TextReward(half)}, {"a": 1.0, "b": 1.0})
    with pytest.raises(UserError, match=r"^no part of the sum \(a, b\) scores response 2 of 4, 'Go away'"):
        as_reward(both, renderer)(answers)


def test_a_model_beside_a_function_without_a_score_still_may_not_be_nan(
    net: ScalarModel, renderer: Renderer, make_answers: MakeAnswers
) -> None:
    broken = copy.deepcopy(net)
    for weight in broken.parameters():
        weight.data.fill_(math.nan)
    source = WeightedSum({"model": broken, "some": TextReward(half)}, {"model": 1.0, "some": 1.0})
    # What is not finite stops the rollout.
    assert as_reward(source, renderer)(make_answers(ROWS, CUT)).total.isnan().all()
