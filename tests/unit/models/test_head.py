"""The head on some positions only: what memory it takes, and heads that are no plain linear layers."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Sequences
from lightning_rlhf.models.forward import label_logprobs, response_kl, response_logits, response_stats
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.ops import projection

MakeNet = Callable[..., PreTrainedModel]
PROMPTS, RESPONSES = [[3, 4, 5], [6]], [[8, 9], [10, 11, 12, 13]]


class Largest(TorchDispatchMode):
    """Keeps the size of the largest tensor that an operator returns, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        outputs = function(*args, **(kwargs or {}))
        sizes = (part.untyped_storage().nbytes() for part in tree_leaves(outputs) if isinstance(part, Tensor))
        self.size = max(self.size, *sizes, 0)
        return outputs


@pytest.mark.parametrize("entropy", [False, True])
def test_all_logits_of_a_batch_are_never_in_memory(
    monkeypatch: pytest.MonkeyPatch,
    make_source: Callable[..., ModelSource],
    make_causal_lm: MakeNet,
    make_sequences: Callable[..., Sequences],
    entropy: bool,
) -> None:
    monkeypatch.setattr(projection, "_CHUNK", 1)
    monkeypatch.setattr(projection, "_ROWS", 16)
    net = make_causal_lm(make_source("gpt2", vocab_size=2000))
    sequences = make_sequences([[3] * 8] * 8, [[4] * 24] * 8)
    # A chunk has 16 rows of 2000 logits in fp32; the weights of the head are 2000 x 32, and all logits would be
    # 8 x 24 x 2000.
    chunk, head = 16 * 2000 * 4, 2000 * 32 * 4
    largest = Largest()
    with largest:
        stats = response_stats(net, sequences, entropy=entropy)
        (stats.logprobs.sum() + (0 if stats.entropy is None else stats.entropy.sum())).backward()
    assert largest.size == max(chunk, head) < 8 * 24 * 2000 * 4 / 4


def test_all_logits_of_two_models_are_never_in_memory_for_their_divergence(
    monkeypatch: pytest.MonkeyPatch,
    make_source: Callable[..., ModelSource],
    make_causal_lm: MakeNet,
    make_sequences: Callable[..., Sequences],
) -> None:
    monkeypatch.setattr(projection, "_CHUNK", 1)
    monkeypatch.setattr(projection, "_ROWS", 16)
    source = make_source("gpt2", vocab_size=2000)
    nets = make_causal_lm(source), make_causal_lm(source, seed=2)
    sequences = make_sequences([[3] * 8] * 8, [[4] * 24] * 8)
    largest = Largest()
    with torch.no_grad(), largest:
        found = response_kl(*(response_logits(net, sequences, 0.7) for net in nets), sequences.response_mask)
    # A chunk of the logits, or the weights of the head.
    assert largest.size == max(16 * 2000 * 4, 2000 * 32 * 4)
    assert_close(found, all_at_once(nets, sequences, 0.7))


def all_at_once(nets: Sequence[nn.Module], sequences: Sequences, temperature: float) -> Tensor:
    """Computes KL (B, R) from all logits (B, R, V) of two models, for rows without padding."""
    num_responses = sequences.response_mask.shape[1]
    with torch.no_grad():
        logits = (net(sequences.input_ids).logits[:, -num_responses - 1 : -1] / temperature for net in nets)
        return torch.distributions.kl_divergence(*(torch.distributions.Categorical(logits=some) for some in logits))


def test_a_divergence_takes_heads_of_a_class_of_their_own(
    make_source: Callable[..., ModelSource], make_causal_lm: MakeNet, make_sequences: Callable[..., Sequences]
) -> None:
    nets = make_causal_lm(make_source("llama")), make_causal_lm(make_source("llama"), seed=2)
    sequences = make_sequences([[3, 4, 5], [6, 7, 8]], [[8, 9], [10, 11]])
    head = nets[0].get_output_embeddings()
    own = type("Own", (nn.Linear,), {})(32, 64, bias=False)
    own.weight = head.weight
    nets[0].set_output_embeddings(own)
    found = response_kl(*(response_logits(net, sequences, 0.7) for net in nets), sequences.response_mask)
    assert_close(found, all_at_once(nets, sequences, 0.7))


def test_the_weights_of_a_head_outlive_a_call_after_which_a_strategy_takes_them_back(
    make_source: Callable[..., ModelSource], make_causal_lm: MakeNet, make_sequences: Callable[..., Sequences]
) -> None:
    net = make_causal_lm(make_source("gptj"))
    sequences = make_sequences([[3, 4, 5], [6, 7, 8]], [[8, 9], [10, 11]])
    head, (weight, bias) = net.lm_head, (part.detach().clone() for part in net.lm_head.parameters())
    expected = net(sequences.input_ids).logits[:, 2:-1].flatten(0, 1).detach()

    def give(*_: object) -> None:
        head.weight.data, head.bias.data = weight.clone(), bias.clone()

    def take(*_: object) -> None:
        for part in head.parameters():
            part.data.fill_(torch.nan)
            part.data = part.data.new_empty(0)

    for part in head.parameters():
        part.whole_shape = part.shape
    take()
    head.register_forward_pre_hook(give)
    net.register_forward_hook(take)
    logits = response_logits(net, sequences, 1.0)
    assert_close(logits.of(slice(0, 3)), expected[:3])


def test_prompts_and_padding_do_not_pass_the_head(
    make_source: Callable[..., ModelSource], make_causal_lm: MakeNet
) -> None:
    net = make_causal_lm(make_source("gpt2", vocab_size=2000))
    ids, labels = torch.full((8, 64), 5), torch.zeros(8, 64, dtype=torch.bool)
    labels[:, -8:] = True
    largest = Largest()
    with largest:
        label_logprobs(net, ids, torch.ones_like(labels), labels).sum().backward()
    # The 64 tokens to learn, of 512.
    assert largest.size == 8 * 8 * 2000 * 4


def test_a_head_of_a_class_of_its_own_is_called(
    make_source: Callable[..., ModelSource], make_causal_lm: MakeNet, make_sequences: Callable[..., Sequences]
) -> None:
    class Doubled(nn.Linear):
        def forward(self, hidden: Tensor) -> Tensor:
            return 2 * super().forward(hidden)

    net, sequences = make_causal_lm(make_source("llama")), make_sequences(PROMPTS, RESPONSES)
    head, own = net.get_output_embeddings(), Doubled(32, 64, bias=False)
    expected = response_stats(net, sequences, temperature=0.5, entropy=True)
    own.weight = head.weight
    net.set_output_embeddings(own)
    found = response_stats(net, sequences, temperature=1.0, entropy=True)
    assert_close(found, expected)
    found.logprobs.sum().backward()
    assert own.weight.grad is not None
    # What was put into the model for the call is gone.
    assert "forward" not in vars(own)
    assert net(sequences.input_ids).logits.shape == (2, 7, 64)


def test_a_model_that_changes_its_logits_in_an_unknown_way_is_refused(
    make_source: Callable[..., ModelSource], make_causal_lm: MakeNet, make_sequences: Callable[..., Sequences]
) -> None:
    net, sequences = make_causal_lm(make_source("llama")), make_sequences(PROMPTS, RESPONSES)

    def sharper(net: nn.Module, arguments: object, output: object) -> object:
        output.logits = 2 * output.logits  # type: ignore[attr-defined]
        return output

    handle = net.register_forward_hook(sharper, prepend=True)
    # The model's own forward is what would do this, so its hook comes before that of the call.
    before = net.register_forward_hook
    net.register_forward_hook = lambda hook, prepend: before(hook)  # type: ignore[assignment,misc]
    with pytest.raises(UserError, match="LlamaForCausalLM changes the logits of its head"):
        response_stats(net, sequences)
    handle.remove()
