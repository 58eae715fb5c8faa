"""The sampler's numbers stand in for the actor's where both are equal by construction, and a response proves it."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from support import OwnWeights, free_port
from torch import nn
from torch.testing import assert_close
from transformers import PreTrainedModel

from lightning_rlhf.data.prompts import Prompt, collate_prompts
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.experience import Answers, Scores, Sequences
from lightning_rlhf.models.head import TokenStats
from lightning_rlhf.models.roles import SeparateRoles
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.collect import Samples, collect
from lightning_rlhf.rollout.engines.engine import Completion, Request, RolloutEngine
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.engines.padded import PaddedEngine
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.rollout.stand_in import AGREEMENT, may_stand_in
from lightning_rlhf.seeding import SAMPLING as PURPOSE
from lightning_rlhf.seeding import RandomKey

CPU = torch.device("cpu")
WHOLE = Sampling(max_new_tokens=9, temperature=2.0)
PROMPTS = [[11, 12, 13, 14], [7], [21, 7, 2], [30, 31], [40, 41, 42, 43, 44], [8, 9]]


class Off(NativeEngine):
    """An engine that says other log-probs than those it draws with."""

    by = 3 * AGREEMENT

    def iterate(self, *arguments: Any, **settings: Any) -> Iterator[Completion]:
        for one in super().iterate(*arguments, **settings):
            yield one._replace(logprobs=[logprob + self.by for logprob in one.logprobs])


class Lost(Off):
    """An engine whose log-probs are NaN."""

    by = float("nan")


class WithoutEntropies(NativeEngine):
    """An engine that draws with the trained model, and knows no entropies."""

    def iterate(self, requests: Sequence[Request], *arguments: Any, **settings: Any) -> Iterator[Completion]:
        yield from super().iterate([request._replace(entropy=False) for request in requests], *arguments, **settings)


class Actor(SeparateRoles):
    """Roles that count the responses in each call of the scorer."""

    def __init__(self, **roles: Any) -> None:
        super().__init__(**roles)
        self.scored: list[list[int]] = []

    def actor_stats(self, sequences: Sequences, *, temperature: float, entropy: bool = True) -> TokenStats:
        self.scored.append(sequences.response_mask.sum(1).tolist())
        return super().actor_stats(sequences, temperature=temperature, entropy=entropy)


def lengths_of(answers: Answers) -> Scores:
    return Scores(answers.sequences.response_mask.sum(1).float(), {})


@pytest.fixture
def net(make_source: Callable[..., ModelSource], make_causal_lm: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    return make_causal_lm(make_source("llama"))


@pytest.fixture
def roles(make_source: Callable[..., ModelSource], make_causal_lm: Callable[..., PreTrainedModel]) -> Actor:
    nets = {name: make_causal_lm(make_source("llama"), seed=seed) for seed, name in enumerate(["actor", "reference"])}
    return Actor(**nets, reward=lengths_of)


@pytest.fixture(scope="module")
def renderer(make_source: Callable[..., ModelSource]) -> Renderer:
    return Renderer(make_source("llama").load_tokenizer(), stop_ids=range(3, 64, 9))


@torch.no_grad()
def collected(
    roles: Actor,
    renderer: Renderer,
    engine: Callable[..., RolloutEngine] = NativeEngine,
    sampling: Sampling = WHOLE,
    rows: slice = slice(None),
    **settings: Any,
) -> Samples:
    mine = list(range(len(PROMPTS)))[rows]
    prompts = collate_prompts([Prompt(PROMPTS[row], f"prompt {row}", {}) for row in mine], mine)
    keys = [RandomKey(1, (PURPOSE, 0), row) for row in mine]
    built = engine(roles.generator(), CPU)
    built.update_weights(iter(roles.generator().state_dict().items()), version=7)
    settings = {"micro_batch_size": 4} | settings
    return collect(built, roles, prompts, sampling, renderer, keys=keys, **settings).samples


def scored_anew(roles: Actor, samples: Samples) -> TokenStats:
    with torch.no_grad():
        return SeparateRoles.actor_stats(roles, samples.sequences, temperature=WHOLE.temperature)


@pytest.mark.parametrize("engine", [NativeEngine, PaddedEngine])
def test_the_actor_scores_its_longest_response_and_the_sampler_stands_in_for_the_others(
    engine: Callable[..., RolloutEngine], roles: Actor, renderer: Renderer
) -> None:
    samples = collected(roles, renderer, engine, exact_kl=True)
    lengths = samples.sequences.response_mask.sum(1)
    assert roles.scored == [[int(lengths.max())]]
    assert lengths.min() < lengths.max()
    assert samples.scored.tolist() == [row == int(lengths.argmax()) for row in range(len(PROMPTS))]
    assert torch.equal(samples.logprobs[~samples.scored], samples.sampler_logprobs[~samples.scored])
    # The row of the proof has the numbers of the scorer, which round in another way.
    assert not torch.equal(samples.logprobs[samples.scored], samples.sampler_logprobs[samples.scored])
    scored, mask = scored_anew(roles, samples), samples.sequences.response_mask
    assert scored.entropy is not None
    assert_close(samples.logprobs[mask], scored.logprobs[mask], atol=1e-5, rtol=0)
    assert_close(samples.entropy[mask], scored.entropy[mask], atol=1e-5, rtol=0)
    assert not samples.logprobs[~mask].any()
    assert not samples.entropy[~mask].any()


def all_are_scored(roles: Actor, samples: Samples, *, proof: bool) -> bool:
    """Whether all samples have the numbers of the scorer, exactly, and which calls of the actor it took."""
    lengths = sorted(samples.sequences.response_mask.sum(1).tolist())
    calls = roles.scored[1:] if proof else roles.scored
    assert proof == (len(roles.scored[0]) == 1)
    return bool(samples.scored.all()) and sorted(length for call in calls for length in call) == lengths


@pytest.mark.parametrize("engine", [Off, Lost])
def test_an_engine_that_disagrees_makes_the_actor_score_everything(
    engine: Callable[..., RolloutEngine], roles: Actor, renderer: Renderer
) -> None:
    samples = collected(roles, renderer, engine)
    assert all_are_scored(roles, samples, proof=True)
    mask = samples.sequences.response_mask
    scored = scored_anew(roles, samples)
    assert_close(samples.logprobs[mask], scored.logprobs[mask], atol=1e-5, rtol=0)
    assert not torch.isclose(samples.logprobs[mask], samples.sampler_logprobs[mask], atol=2 * AGREEMENT, rtol=0).any()


@pytest.mark.parametrize(
    ("engine", "sampling"),
    [
        (OwnWeights, WHOLE),
        (NativeEngine, Sampling(max_new_tokens=9, temperature=2.0, top_p=0.9)),
    ],
)
def test_whatever_may_differ_by_construction_is_scored_without_a_proof(
    engine: Callable[..., RolloutEngine], sampling: Sampling, roles: Actor, renderer: Renderer
) -> None:
    assert all_are_scored(roles, collected(roles, renderer, engine, sampling), proof=False)


def test_the_responses_of_an_engine_without_entropies_are_scored(roles: Actor, renderer: Renderer) -> None:
    # The engine of another process may know them, so this process takes part in the proof.
    assert all_are_scored(roles, collected(roles, renderer, WithoutEntropies), proof=True)


def test_a_model_in_16_bits_is_scored(roles: Actor, renderer: Renderer) -> None:
    roles.to(torch.bfloat16)
    assert all_are_scored(roles, collected(roles, renderer), proof=False)


def test_the_whole_distribution_of_a_model_in_fp32_needs_no_scorer(net: PreTrainedModel) -> None:
    for engine in (NativeEngine(net, CPU), PaddedEngine(net, CPU)):
        assert may_stand_in(engine, net, WHOLE)
        assert may_stand_in(engine, net, Sampling(max_new_tokens=4, temperature=0.1, stop=["Human:"]))
    assert not may_stand_in(OwnWeights(net, CPU), net, WHOLE)


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}, {"repetition_penalty": 1.1}]
)
def test_a_part_of_the_distribution_is_not_what_the_scorer_computes(
    settings: dict[str, Any], net: PreTrainedModel
) -> None:
    assert not may_stand_in(NativeEngine(net, CPU), net, Sampling(max_new_tokens=4, **settings))


class Linear4bit(nn.Linear):
    """Has the name of a layer of bitsandbytes, whose weights may lie in tensors of any dtype."""


@pytest.mark.parametrize("change", ["bf16", "one weight in bf16", "fp64", "4 bits", "autocast"])
def test_other_precisions_than_fp32_round_visibly(change: str, net: PreTrainedModel) -> None:
    if change == "bf16":
        net.to(torch.bfloat16)
    elif change == "one weight in bf16":
        net.model.norm.to(torch.bfloat16)
    elif change == "fp64":
        net.to(torch.float64)
    elif change == "4 bits":
        net.model.layers[0].mlp.up_proj = Linear4bit(32, 64)
    with torch.autocast("cpu", torch.bfloat16, enabled=change == "autocast"):
        assert not may_stand_in(NativeEngine(net, CPU), net, WHOLE)


def _collect_in_a_process(rank: int, port: int, folder: str, roles: Actor, renderer: Renderer, engines: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    samples = collected(roles, renderer, engines[rank], rows=slice(3 * rank, 3 * rank + 3), micro_batch_size=2)
    found = {"calls": len(roles.scored), "scored": samples.scored.tolist(), "logprobs": samples.logprobs.tolist()}
    Path(folder, str(rank)).write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("engines", "calls", "scored"),
    [
        # Each process scores its longest response.
        ((NativeEngine, NativeEngine), 1, 1),
        # The proof, and then three responses two at a time.
        ((NativeEngine, Off), 3, 3),
        ((Off, NativeEngine), 3, 3),
    ],
)
def test_processes_score_alike_if_the_engine_of_any_of_them_disagrees(
    engines: Any, calls: int, scored: int, roles: Actor, renderer: Renderer, tmp_path: Path
) -> None:
    mp.spawn(_collect_in_a_process, (free_port(), str(tmp_path), roles, renderer, engines), nprocs=2)
    found = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(2)]
    assert [one["calls"] for one in found] == [calls, calls]
    assert [sum(one["scored"]) for one in found] == [scored, scored]
    alone = collected(roles, renderer)
    assert_close(torch.tensor(found[0]["logprobs"] + found[1]["logprobs"]), alone.logprobs, atol=1e-5, rtol=0)


def test_an_actor_that_has_not_moved_from_its_reference_has_no_divergence(roles: Actor, renderer: Renderer) -> None:
    samples = collected(roles, renderer)
    assert not torch.equal(samples.logprobs, samples.ref_logprobs)
    roles.actor.load_state_dict(roles.reference.state_dict())
    samples = collected(roles, renderer)
    assert samples.scored.sum() == 1
    assert torch.equal(samples.logprobs, samples.ref_logprobs)
