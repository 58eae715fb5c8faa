"""From prompts to samples: what each of the four roles computes for a response, however the rows are split."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import PreTrainedModel

from lightning_rlhf.data.prompts import Prompt, collate_prompts
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.experience import Answers, Scores
from lightning_rlhf.models.packing import without_packing
from lightning_rlhf.models.roles import SeparateRoles
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.collect import Samples, collect, score_samples
from lightning_rlhf.rollout.engines.padded import PaddedEngine
from lightning_rlhf.rollout.sampled import Sampled, sample
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.rollout.texts import decode, decoder
from lightning_rlhf.seeding import SAMPLING as PURPOSE
from lightning_rlhf.seeding import RandomKey

PROMPTS = [[11, 12, 13, 14], [7], [21, 7, 2], [30, 31], [40, 41, 42, 43, 44]]
ROWS = collate_prompts(
    [Prompt(ids, f"prompt {n}", {"n": n}) for n, ids in enumerate(PROMPTS)], list(range(len(PROMPTS)))
)
SAMPLING = Sampling(max_new_tokens=6, temperature=0.7)
KEYS = [RandomKey(1, (PURPOSE, 0), row) for row in ROWS.indices]
# With these settings, the likeliest token is rarely drawn, so greedy responses differ from sampled ones.
WIDE = replace(SAMPLING, temperature=4.0)


def in_two_parts(answers: Answers) -> Scores:
    """Scores the number of tokens, and the place of the prompt in the data."""
    length = answers.sequences.response_mask.sum(1).float()
    place = torch.tensor([float(row["n"]) for row in answers.columns])
    return Scores(length + 10 * place, {"length": length, "place": place})


class ByLength(torch.nn.Module):
    """A model as a reward."""

    def forward(self, answers: Answers) -> Scores:
        return in_two_parts(answers)


@pytest.fixture(scope="module")
def renderer(make_source: Callable[..., ModelSource]) -> Renderer:
    # One in four tokens ends a response.
    return Renderer(make_source("gpt2").load_tokenizer(), stop_ids=range(3, 64, 4))


@pytest.fixture
def roles(
    make_source: Callable[..., ModelSource],
    make_causal_lm: Callable[..., PreTrainedModel],
    make_scalar_model: Callable[..., ScalarModel],
) -> SeparateRoles:
    source = make_source("gpt2")
    return SeparateRoles(
        actor=make_causal_lm(source),
        reference=make_causal_lm(source, seed=2),
        critic=make_scalar_model(source),
        reward=in_two_parts,
    )


@torch.no_grad()
def collected(roles: SeparateRoles, renderer: Renderer, sampling: Sampling = SAMPLING, **settings: Any) -> Samples:
    settings = {"micro_batch_size": 2} | settings
    return collect(engine_of(roles), roles, ROWS, sampling, renderer, keys=KEYS, **settings).samples


def engine_of(roles: SeparateRoles) -> PaddedEngine:
    engine = PaddedEngine(roles.generator(), torch.device("cpu"), micro_batch_size=3)
    engine.update_weights([], version=7)
    return engine


def tensors_of(value: Any, mask: Tensor) -> list[Tensor]:
    """Returns all tensors of nested named tuples; of those that belong to tokens, only what the mask keeps."""
    if value is None:
        return []
    if isinstance(value, Tensor):
        return [value[mask] if value.shape == mask.shape else value]
    return [
        tensor for each in (value.values() if isinstance(value, dict) else value) for tensor in tensors_of(each, mask)
    ]


@pytest.mark.parametrize("size", [1, 3, 5, 100])
def test_the_size_of_micro_batches_changes_nothing(roles: SeparateRoles, renderer: Renderer, size: int) -> None:
    settings = {"exact_kl": True, "greedy": True}
    samples, others = (collected(roles, renderer, micro_batch_size=each, **settings) for each in (2, size))
    mask = samples.sequences.response_mask
    expected = tensors_of(samples, mask)
    assert len(expected) == 20
    for tensor, other in zip(expected, tensors_of(others, mask), strict=True):
        assert_close(other, tensor, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("models", [True, False])
def test_a_token_budget_changes_the_calls_and_no_number(models: bool, roles: SeparateRoles, renderer: Renderer) -> None:
    if models:
        roles.reward = ByLength()
    settings = {"exact_kl": True, "greedy": True, "micro_batch_size": 100}
    whole = collected(roles, renderer, WIDE, **settings)
    shapes = []
    handle = roles.reference.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    with without_packing():
        within = collected(roles, renderer, WIDE, max_tokens=20, **settings)
    handle.remove()
    assert all(rows * columns <= 20 for rows, columns in shapes)
    assert len({rows for rows, _ in shapes}) > 1
    mask = whole.sequences.response_mask
    assert torch.equal(within.sequences.input_ids, whole.sequences.input_ids)
    # The rows are in the order of the prompts again, though the longest were scored first.
    rows = zip(within.sequences.input_ids, within.sequences.attention_mask, PROMPTS, strict=True)
    assert [ids[kept][: len(prompt)].tolist() for ids, kept, prompt in rows] == PROMPTS
    for tensor, other in zip(tensors_of(whole, mask), tensors_of(within, mask), strict=True):
        assert_close(other, tensor, atol=1e-4, rtol=1e-4)


def test_processes_score_in_as_many_calls_as_the_one_that_needs_most(
    roles: SeparateRoles, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    roles.reference.register_forward_pre_hook(lambda *_: calls.append(1))
    alone = collected(roles, renderer, micro_batch_size=5)
    # The reference scores the longest response first, to see whether the actor has moved.
    assert len(calls) == 1 + 1
    # Another process needs four calls.
    monkeypatch.setattr("lightning_rlhf.rollout.collect.gather_objects", lambda items: [*items, 4])
    assert_close(collected(roles, renderer, micro_batch_size=5).logprobs, alone.logprobs, atol=1e-4, rtol=1e-4)
    assert len(calls) == 2 + 1 + 4


def test_samples_have_all_columns_though_only_those_in_use_are_scored(roles: SeparateRoles, renderer: Renderer) -> None:
    widths = []
    handle = roles.reference.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    samples = collected(roles, renderer, WIDE, micro_batch_size=1)
    handle.remove()
    mask = samples.sequences.response_mask
    assert mask.sum(1).min() < 6
    # The first call is the check of the longest response; then the longest rows are scored first.
    lengths = [len(ids) + int(length) for ids, length in zip(PROMPTS, mask.sum(1), strict=True)]
    assert widths[1:] == sorted(lengths, reverse=True)
    for tensor in (samples.logprobs, samples.entropy, samples.ref_logprobs, samples.values, samples.sampler_logprobs):
        assert tensor is not None
        assert tensor.shape == mask.shape == (5, 6)
        assert not tensor[~mask].any()


@pytest.mark.parametrize("temperature", [0.7, 1.0, 4.0])
def test_sampler_and_scorer_agree_on_every_token(roles: SeparateRoles, renderer: Renderer, temperature: float) -> None:
    samples = collected(roles, renderer, replace(SAMPLING, temperature=temperature))
    mask = samples.sequences.response_mask
    assert_close(samples.sampler_logprobs[mask], samples.logprobs[mask], atol=1e-4, rtol=1e-4)
    assert samples.logprobs[mask].std() > 0.1


def test_what_is_known_of_a_response_is_what_each_role_says_of_it(roles: SeparateRoles, renderer: Renderer) -> None:
    samples = collected(roles, renderer, exact_kl=True)
    sequences, mask = samples.sequences, samples.sequences.response_mask
    with torch.no_grad():
        stats = roles.actor_stats(sequences, temperature=0.7)
        ref_logprobs = roles.ref_logprobs(sequences, temperature=0.7)
        values, exact = roles.values(sequences), roles.exact_kl(sequences, temperature=0.7)
    for name, expected in [
        ("logprobs", stats.logprobs),
        ("entropy", stats.entropy),
        ("ref_logprobs", ref_logprobs),
        ("values", values),
        ("exact_kl", exact),
    ]:
        assert_close(getattr(samples, name)[mask], expected[mask], atol=1e-4, rtol=1e-4, msg=name)


@torch.no_grad()
def test_whoever_asks_for_scores_gets_those_of_the_scorer_whatever_the_sampler_says(
    roles: SeparateRoles, renderer: Renderer
) -> None:
    drawn = collected(roles, renderer)
    wrong = Sampled(drawn.sequences, drawn.finished, drawn.sampler_logprobs - 1, drawn.weights_version)
    samples = score_samples(roles, wrong, drawn.scores, SAMPLING.temperature)
    mask = drawn.sequences.response_mask
    assert_close(samples.logprobs[mask], drawn.logprobs[mask], atol=1e-4, rtol=1e-4)
    assert torch.equal(samples.sampler_logprobs, drawn.sampler_logprobs - 1)
    assert samples.scored.all()


def test_the_reward_gets_texts_and_columns_and_gives_parts(roles: SeparateRoles, renderer: Renderer) -> None:
    seen: list[Answers] = []

    def spy(answers: Answers) -> Scores:
        seen.append(answers)
        return in_two_parts(answers)

    roles.reward = spy
    samples = collected(roles, renderer, WIDE)
    lengths = samples.sequences.response_mask.sum(1).float()
    assert_close(samples.scores.total, lengths + 10 * torch.arange(5.0))
    assert_close(samples.scores.parts, {"length": lengths, "place": torch.arange(5.0)})
    assert [len(answers.prompts) for answers in seen] == [2, 2, 1]
    assert [text for answers in seen for text in answers.prompts] == ROWS.texts
    assert [text for answers in seen for text in answers.responses] == decode(samples.sequences, renderer)
    assert [row["n"] for answers in seen for row in answers.columns] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_scores_of_tokens_keep_their_places_though_the_reward_gets_trimmed_columns(
    roles: SeparateRoles, renderer: Renderer, size: int
) -> None:
    widths = []

    def ids_of_tokens(answers: Answers) -> Scores:
        mask = answers.sequences.response_mask
        widths.append(mask.shape[1])
        return Scores(torch.ones(len(mask)), {}, torch.where(mask, answers.sequences.responses.float(), 0))

    roles.reward = ids_of_tokens
    samples = collected(roles, renderer, WIDE, micro_batch_size=size, greedy=True)
    ids = torch.where(samples.sequences.response_mask, samples.sequences.responses.float(), 0)
    assert_close(samples.scores.tokens, ids)
    assert_close(samples.scores.total, 1 + ids.sum(1))
    # Only sums of the greedy responses are kept, from micro-batches that have widths of their own.
    assert min(widths) < 6 or size == 5
    assert samples.greedy is not None
    one_by_one = collected(roles, renderer, WIDE, micro_batch_size=1, greedy=True).greedy
    assert one_by_one is not None
    assert_close(samples.greedy.token_scores, one_by_one.token_scores)
    assert (samples.greedy.token_scores > 0).any()


def test_only_a_reward_without_models_is_asked_beside_the_sampling(roles: SeparateRoles, renderer: Renderer) -> None:
    main, threads = threading.current_thread(), []

    class Net(torch.nn.Module):
        def forward(self, answers: Answers) -> Scores:
            threads.append(threading.current_thread())
            return in_two_parts(answers)

    for reward in (Net().forward, Net()):
        roles.reward = reward
        threads.clear()
        collected(roles, renderer, WIDE)
        assert len(threads) == 3
        assert [thread is main for thread in threads] == 3 * [isinstance(reward, Net)]


def test_texts_are_made_once_for_the_reward_and_for_what_is_shown(roles: SeparateRoles, renderer: Renderer) -> None:
    seen: list[str] = []

    def spy(answers: Answers) -> Scores:
        seen.extend(answers.responses)
        return in_two_parts(answers)

    roles.reward = spy
    found = collect(engine_of(roles), roles, ROWS, WIDE, renderer, keys=KEYS, micro_batch_size=2)
    assert found.responses == seen == decode(found.samples.sequences, renderer)


def test_a_text_ends_responses(roles: SeparateRoles, renderer: Renderer) -> None:
    free = collected(roles, renderer, WIDE)
    whole = decoder(renderer)
    ids = free.sequences.responses[0, :2].tolist()
    text = whole(ids)[-2:]
    found = collected(roles, renderer, replace(WIDE, stop=[text]))
    for row, mask, ended in zip(found.sequences.responses, found.sequences.response_mask, found.finished, strict=True):
        tokens = row[mask].tolist()
        assert text not in whole(tokens[:-1])
        assert not ended or tokens[-1] in renderer.stop_ids or text in whole(tokens)
    assert found.sequences.response_mask[0].sum() <= 2


def test_a_source_that_scores_no_tokens_leaves_zeros(roles: SeparateRoles, renderer: Renderer) -> None:
    samples = collected(roles, renderer, greedy=True)
    assert_close(samples.scores.tokens, torch.zeros(5, 6))
    assert samples.greedy is not None
    assert_close(samples.greedy.token_scores, torch.zeros(5))


def test_samples_say_which_weights_wrote_them(roles: SeparateRoles, renderer: Renderer) -> None:
    assert collected(roles, renderer).weights_version.tolist() == [[7]] * 5


def test_nothing_is_computed_that_nobody_asked_for(roles: SeparateRoles, renderer: Renderer) -> None:
    roles.critic = None
    samples = collected(roles, renderer)
    assert samples.values is None
    assert samples.exact_kl is None
    assert samples.greedy is None


def test_the_greedy_baseline_is_the_score_of_a_greedy_answer_to_the_same_prompt(
    roles: SeparateRoles, renderer: Renderer
) -> None:
    samples = collected(roles, renderer, WIDE, greedy=True)
    with torch.no_grad():
        best = sample(
            engine_of(roles),
            ROWS.input_ids,
            ROWS.attention_mask,
            KEYS,
            replace(WIDE, temperature=0.0),
            stop_ids=renderer.stop_ids,
        )
    lengths = best.sequences.response_mask.sum(1)
    assert lengths.tolist() != samples.sequences.response_mask.sum(1).tolist()
    assert len(set(lengths.tolist())) > 1
    assert samples.greedy is not None
    assert_close(samples.greedy.scores, lengths.float() + 10 * torch.arange(5.0))
    assert torch.equal(samples.greedy.lengths, lengths)
    assert torch.equal(samples.greedy.finished, best.finished)
    # The samples are the same as without the greedy responses.
    assert torch.equal(samples.sequences.input_ids, collected(roles, renderer, WIDE).sequences.input_ids)
