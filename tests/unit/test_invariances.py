"""What must not change any result, for real models of six families: padding, other rows of a batch, and its parts."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import PreTrainedModel

from lightning_rlhf.data.batches import SFTBatch, pad
from lightning_rlhf.data.pairs import Pair
from lightning_rlhf.data.preference import collate_pairs
from lightning_rlhf.data.render import Rendered
from lightning_rlhf.data.sft import collate_sft, num_labels
from lightning_rlhf.experience import Answers, Experience, Sequences
from lightning_rlhf.models.forward import label_logprobs
from lightning_rlhf.models.roles import SeparateRoles
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.modules.dpo import DPOModule
from lightning_rlhf.modules.ppo_loss import PPOLoss
from lightning_rlhf.modules.reward import RewardModule
from lightning_rlhf.ops.aggregation import AGGREGATIONS, MinibatchSize
from lightning_rlhf.ops.kl import KL_IN_LOSS
from lightning_rlhf.ops.losses import POLICY_LOSSES
from lightning_rlhf.rewards.net import NetReward
from lightning_rlhf.rollout.dataset import Minibatch
from lightning_rlhf.rollout.engines.padded import PaddedEngine
from lightning_rlhf.rollout.sampled import sample
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey

MakeSequences = Callable[..., Sequences]
Row = tuple[list[int], list[int]]

# The filler under padding, BOS, EOS and PAD are ordinary ids, and drawn often.
TOKENS = st.sampled_from([0, 1, 2, 7]) | st.integers(0, 63)
TEXTS = st.lists(TOKENS, min_size=1, max_size=5)
ROWS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4)
LAYOUTS = st.fixed_dictionaries({"left": st.integers(0, 4), "right": st.integers(0, 4), "filler": TOKENS})
TEMPERATURES = st.sampled_from([0.5, 0.7, 1.0, 4.0])
EIGHT = st.lists(st.tuples(TEXTS, TEXTS), min_size=8, max_size=8)
# Eight parts of one row, one part of eight rows, and anything between.
CUTS = st.sampled_from([{1, 2, 3, 4, 5, 6, 7}, {4}, {2, 4, 6}]) | st.sets(st.integers(1, 7), min_size=1)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS, TEXTS).filter(lambda pair: pair[1] != pair[2]), min_size=8, max_size=8)
# The examples are small, and shrinking one would take minutes.
few_examples = settings(max_examples=6, phases=[Phase.generate])
# The weights are large, so anything that wrongly matters moves these numbers a lot.
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def roles(
    source: ModelSource, make_causal_lm: Callable[..., PreTrainedModel], make_scalar_model: Callable[..., ScalarModel]
) -> SeparateRoles:
    return SeparateRoles(
        actor=make_causal_lm(source),
        reference=make_causal_lm(source, seed=2),
        critic=make_scalar_model(source),
        reward=NetReward(make_scalar_model(source, seed=3)),
    )


def alone(net: nn.Module, row: Row) -> Tensor:
    """Computes the logits (R, V) of a response from its row alone, without padding, mask or positions."""
    prompt, response = row
    return net(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]


def numbers_alone(model: ScalarModel, row: Row) -> Tensor:
    """Computes the number at each token (T,) of a row alone, with only the parts of the model."""
    hidden = model.net.base_model(torch.tensor([row[0] + row[1]])).last_hidden_state[0]
    return hidden @ model.head.weight[0] + model.bias


@torch.no_grad()
@given(rows=ROWS, layout=LAYOUTS, temperature=TEMPERATURES)
@few_examples
def test_logprobs_are_those_of_the_row_alone(
    rows: list[Row], layout: dict[str, int], temperature: float, roles: SeparateRoles, make_sequences: MakeSequences
) -> None:
    sequences = make_sequences(*zip(*rows, strict=True), **layout)
    stats = roles.actor_stats(sequences, temperature=temperature)
    ref_logprobs = roles.ref_logprobs(sequences, temperature=temperature)
    exact_kl = roles.exact_kl(sequences, temperature=temperature)
    for number, row in enumerate(rows):
        response, places = row[1], slice(0, len(row[1]))
        actor, reference = (
            torch.distributions.Categorical(logits=alone(net, row) / temperature)
            for net in (roles.actor, roles.reference)
        )
        assert_close(stats.logprobs[number, places], actor.log_prob(torch.tensor(response)), **CLOSE)
        assert_close(stats.entropy[number, places], actor.entropy(), **CLOSE)
        assert_close(ref_logprobs[number, places], reference.log_prob(torch.tensor(response)), **CLOSE)
        assert_close(exact_kl[number, places], torch.distributions.kl_divergence(actor, reference), **CLOSE)


@torch.no_grad()
@given(rows=ROWS, layout=LAYOUTS)
@few_examples
def test_values_are_those_before_each_token_of_the_row_alone(
    rows: list[Row], layout: dict[str, int], roles: SeparateRoles, make_sequences: MakeSequences
) -> None:
    values = roles.values(make_sequences(*zip(*rows, strict=True), **layout))
    for number, (prompt, response) in enumerate(rows):
        expected = numbers_alone(roles.critic, (prompt, response))[len(prompt) - 1 : -1]
        assert_close(values[number, : len(response)], expected, **CLOSE)


@torch.no_grad()
@given(rows=ROWS, layout=LAYOUTS)
@few_examples
def test_scores_are_those_at_the_last_token_of_the_row_alone(
    rows: list[Row], layout: dict[str, int], roles: SeparateRoles, make_sequences: MakeSequences
) -> None:
    sequences = make_sequences(*zip(*rows, strict=True), **layout)
    scores = roles.scores(Answers(sequences, [], [], []))
    expected = torch.stack([numbers_alone(roles.reward.net, row)[-1] for row in rows])
    assert_close(scores.total, expected, **CLOSE)


@torch.no_grad()
@given(rows=ROWS, side=st.sampled_from(["left", "right"]))
@few_examples
def test_logprobs_of_labels_are_those_of_the_row_alone_on_either_side_of_the_padding(
    rows: list[Row], side: str, roles: SeparateRoles
) -> None:
    ids, mask = pad([prompt + response for prompt, response in rows], side)
    labels, _ = pad([[0] * len(prompt) + [1] * len(response) for prompt, response in rows], side)
    logprobs = label_logprobs(roles.actor, ids, mask, labels.bool())
    expected = [alone(roles.actor, row).log_softmax(-1)[range(len(row[1])), row[1]] for row in rows]
    assert_close(logprobs, torch.cat(expected), **CLOSE)


@torch.no_grad()
@given(prompts=st.lists(TEXTS, min_size=1, max_size=6), temperature=TEMPERATURES, seed=st.integers(0, 999))
@few_examples
def test_the_sampler_says_the_same_logprobs_as_the_scorer(
    prompts: list[list[int]], temperature: float, seed: int, roles: SeparateRoles
) -> None:
    keys = [RandomKey(seed, (SAMPLING,), row) for row in range(len(prompts))]
    sampling = Sampling(max_new_tokens=8, temperature=temperature)
    stops = tuple(range(2, 64, 4))
    engine = PaddedEngine(roles.generator(), torch.device("cpu"))
    sampled = sample(engine, *pad(prompts, "left"), keys, sampling, stop_ids=stops)
    scored = roles.actor_stats(sampled.sequences, temperature=temperature).logprobs
    mask = sampled.sequences.response_mask
    assert_close(sampled.logprobs[mask], scored[mask], **CLOSE)
    assert not sampled.logprobs[~mask].any()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@torch.no_grad()
def test_a_net_that_is_trained_says_the_same_unless_dropout_is_asked_for(
    dropout: float, source: ModelSource, make_causal_lm: Callable[..., PreTrainedModel]
) -> None:
    net, ids = make_causal_lm(replace(source, dropout=dropout)), torch.tensor([[3, 4, 5, 6]])
    evaluated, trained = net.eval()(ids).logits, net.train()(ids).logits
    # Llama has dropout only in attention, where sdpa applies it too.
    assert torch.equal(evaluated, trained) == (dropout == 0)


def parts_of(cuts: set[int]) -> Iterator[list[int]]:
    """Splits the rows 0 to 7 before some of them."""
    edges = [0, *sorted(cuts), 8]
    for start, end in zip(edges, edges[1:], strict=False):
        yield list(range(start, end))


def gradient(net: nn.Module, losses: Iterator[Tensor]) -> Tensor:
    """Returns the gradient of the sum of some losses as one vector."""
    net.zero_grad()
    for loss in losses:
        loss.backward()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def assert_parts_add_up(net: nn.Module, loss_of: Callable[[list[int]], Tensor], cuts: set[int]) -> None:
    """The gradient of a whole minibatch is the sum of the gradients of its parts, up to rounding."""
    whole = gradient(net, iter([loss_of(list(range(8)))]))
    summed = gradient(net, map(loss_of, parts_of(cuts)))
    assert float(whole.norm()) > 0
    assert float((summed - whole).norm()) < 1e-4 * float(whole.norm())


def rendered(row: Row) -> Rendered:
    """A conversation whose answer is learnt."""
    prompt, response = row
    return Rendered(prompt + response, [False] * len(prompt) + [True] * len(response))


@given(rows=EIGHT, cuts=CUTS)
@few_examples
def test_parts_of_a_minibatch_add_up_to_the_gradient_of_fine_tuning(
    rows: list[Row], cuts: set[int], roles: SeparateRoles
) -> None:
    conversations = list(map(rendered, rows))
    num_tokens = sum(map(num_labels, conversations))

    def loss_of(part: list[int]) -> Tensor:
        batch: SFTBatch = collate_sft([conversations[i] for i in part], num_tokens)
        return -label_logprobs(roles.actor, *batch[:3]).sum() / batch.num_tokens

    assert_parts_add_up(roles.actor, loss_of, cuts)


@pytest.mark.parametrize("stage", ["reward", "dpo"])
@given(triples=PAIRS, cuts=CUTS)
@few_examples
def test_parts_of_a_minibatch_add_up_to_the_gradient_of_preferences(
    stage: str, triples: list[tuple[list[int], list[int], list[int]]], cuts: set[int], roles: SeparateRoles
) -> None:
    pairs = [Pair(rendered((prompt, one)), rendered((prompt, other)), 0.5) for prompt, one, other in triples]
    renderer: Any = None
    module: RewardModule | DPOModule
    if stage == "reward":
        module = RewardModule(copy.deepcopy(roles.critic), renderer)
    else:
        module = DPOModule(actor=copy.deepcopy(roles.actor), reference=roles.reference, renderer=renderer)
    module.configure_model()
    module.eval()

    def loss_of(part: list[int]) -> Tensor:
        batch = collate_pairs([pairs[i] for i in part], num_pairs=8)
        return module.losses(batch)[0].sum() / batch.num_pairs

    assert_parts_add_up(module, loss_of, cuts)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("policy", POLICY_LOSSES)
@given(rows=EIGHT, cuts=CUTS, seed=st.integers(0, 999))
@settings(few_examples, max_examples=3)
def test_parts_of_a_minibatch_add_up_to_the_gradient_of_ppo(
    policy: str,
    aggregation: str,
    rows: list[Row],
    cuts: set[int],
    seed: int,
    roles: SeparateRoles,
    make_sequences: MakeSequences,
) -> None:
    sequences = make_sequences(*zip(*rows, strict=True))
    mask = sequences.response_mask
    loss = PPOLoss(policy=policy, aggregation=aggregation, ent_coef=0.1, vf_coef=0.5)  # type: ignore[arg-type]
    with torch.no_grad():
        logprobs, values = roles.actor_stats(sequences, temperature=0.7).logprobs, roles.values(sequences)
        # The old values are so far from the present ones that some tokens are clipped, and others are not.
        noise, advantages, errors, ref_logprobs = torch.randn(
            4, *mask.shape, generator=torch.Generator().manual_seed(seed)
        )
    experience = Experience(
        sequences,
        old_logprobs=logprobs + 0.2 * noise,
        ref_logprobs=logprobs + ref_logprobs,
        advantages=advantages,
        old_values=values + 0.2 * noise,
        returns=values + errors,
        kl_coef=torch.full((8, 1), 0.1),
        sampler_logprobs=logprobs,
        weights_version=torch.zeros(8, 1, dtype=torch.long),
    )
    size = MinibatchSize(num_sequences=8, num_tokens=int(mask.sum()), max_length=12)

    def loss_of(part: list[int]) -> Tensor:
        batch = Minibatch(experience.rows(part), size)
        some = batch.experience.sequences
        new = roles.actor_stats(some, temperature=0.7, entropy=True)
        return loss(new, roles.values(some), batch, KL_IN_LOSS["k3"]).loss

    assert_parts_add_up(nn.ModuleList(roles.trainable().values()), loss_of, cuts)
