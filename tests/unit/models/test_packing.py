"""Packed rows, also such that begin alike: they are fewer, and change neither numbers nor gradients in any family."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import PreTrainedModel
from transformers import modeling_flash_attention_utils as flash_utils

from lightning_rlhf.experience import Sequences
from lightning_rlhf.models import forward, packing
from lightning_rlhf.models.attention import FLASH, chosen_attention
from lightning_rlhf.models.forward import label_logprobs, response_stats
from lightning_rlhf.models.packing import without_packing
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.models.source import ModelSource

MakeSequences = Callable[..., Sequences]
_LIKE_LLAMA = {
    **{"vocab_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
    **{"hidden_size": 32, "intermediate_size": 64, "initializer_range": 0.4},
}
_WINDOW = {"sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"]}
# The families of conf/model beside the six that all tests of models use, and two that scale their logits.
OTHERS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 3},
    "gemma": {},
    "gemma2": {**_WINDOW, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 3.0},
    "gemma3_text": _WINDOW,
    "qwen2": {},
    "qwen3": {},
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 3.0},
    "a window as wide as rows": {"model_type": "gemma3_text", **_WINDOW, "sliding_window": 64},
}
SIX = ("gpt2", "llama", "opt", "bloom", "gptj", "gpt_neox")
PROMPTS = [[3, 4, 5, 6, 8, 9, 10], [11], [12, 13], [14, 15, 16], [17]]
RESPONSES = [[20, 21], [22, 23, 24, 25, 26, 27], [28], [29, 30], [31]]

# The rows have 9, 7, 3, 5 and 2 tokens. Those of 7 and 2, and of 5 and 3, share a row of nine.
PACKED = {"rows": (3, 9), "segments": (1, 9 + 9 + 8)}

# Three answers to one prompt, two of which begin alike; two to another, one of which begins like the other; a prompt
# that begins like the first; and a row twice.
ALIKE_PROMPTS = [[3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15]] * 3 + [[16, 17, 18, 19, 21, 22, 23, 24, 25]] * 2
ALIKE_PROMPTS += [[3, 4, 5, 6, 8, 9, 10, 11, 30, 31], [*range(32, 40)], [*range(32, 40)]]
ALIKE_RESPONSES = [[20, 21, 26, 2], [20, 27, 2], [28, 2], [40, 41, 42, 2], [40, 41], [43, 2], [44, 2], [44, 2]]
# The first tree has 12 + 4 + 2 + 2 tokens, and those of the prompt that begins like it, 2 + 2; the second has 13; the
# last row, which is there twice, has 10. With up to four rows of a tree, the first row of the call has 24 tokens, and
# the second the other 23.
ALIKE_PACKED = {"rows": (2, 24), "segments": (1, 24 + 23)}


@pytest.fixture(params=["segments", "rows"], autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Lets short rows share segments of nine tokens, or packs into rows as on a GPU."""
    monkeypatch.setattr(packing, "_SEGMENT", 9)
    if request.param == "rows":
        monkeypatch.setattr(packing, "_takes_segments", lambda *_: False)
    return str(request.param)


@pytest.fixture(params=[*SIX, *OTHERS])
def any_source(request: pytest.FixtureRequest, make_source: Callable[..., ModelSource]) -> ModelSource:
    if request.param in SIX:
        return make_source(request.param)
    config = {"model_type": request.param, **_LIKE_LLAMA, **OTHERS[request.param]}
    return ModelSource(config=config, tokenizer="pkg://lightning_rlhf/demo/tokenizer")


def gradients(net: nn.Module, found: Tensor) -> list[Tensor]:
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    pulled = torch.randn(found.shape, generator=torch.manual_seed(3))
    return [*torch.autograd.grad((found * pulled).sum(), weights, allow_unused=True, materialize_grads=True)]


def assert_packing_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
    net: nn.Module,
    numbers: Callable[[], Tensor],
    *,
    packs: bool,
    form: str,
    shapes_of_call: dict[str, tuple[int, int]] = PACKED,
) -> None:
    """Compares numbers and gradients with those of padded rows, and checks whether the call was packed."""
    shapes = []

    def seen(module: nn.Module, args: Any, kwargs: dict[str, Tensor]) -> None:
        shapes.append(tuple(kwargs["input_ids"].shape))

    called = net.net.base_model if isinstance(net, ScalarModel) else net
    handle = called.register_forward_pre_hook(seen, with_kwargs=True)
    found = numbers()
    window = getattr(called.config, "sliding_window", None)
    segments = called.config._attn_implementation == "sdpa" and (window is None or window == 64)
    assert (shapes == [shapes_of_call[form if segments else "rows"]]) == packs
    mine = gradients(net, found)
    monkeypatch.setattr(forward, "packed", lambda *_: None)
    expected = numbers()
    handle.remove()
    assert_close(found, expected, atol=1e-4, rtol=1e-4)
    for gradient, wanted in zip(mine, gradients(net, expected), strict=True):
        scale = max(1.0, float(wanted.abs().max()))
        assert_close(gradient / scale, wanted / scale, atol=1e-4, rtol=1e-4)


def can_pack(source: ModelSource) -> bool:
    assert isinstance(source.config, dict)
    return source.config["model_type"] != "bloom"


def test_log_probs_and_entropies_have_the_gradient_of_padded_rows(
    monkeypatch: pytest.MonkeyPatch,
    any_source: ModelSource,
    make_causal_lm: Callable[..., PreTrainedModel],
    make_sequences: MakeSequences,
    form: str,
) -> None:
    net, sequences = make_causal_lm(any_source), make_sequences(PROMPTS, RESPONSES, left=1, right=2, filler=7)

    def numbers() -> Tensor:
        stats = response_stats(net, sequences, temperature=0.7, entropy=True)
        assert stats.entropy is not None
        return torch.stack([stats.logprobs, stats.entropy])

    found = numbers()
    assert found[:, ~sequences.response_mask].count_nonzero() == 0
    # Each row alone, without padding, positions or a mask.
    for prompt, response, mine in zip(PROMPTS, RESPONSES, found.unbind(1), strict=True):
        with torch.no_grad():
            logits = net(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / 0.7
        alone = torch.distributions.Categorical(logits=logits)
        expected = torch.stack([alone.log_prob(torch.tensor(response)), alone.entropy()])
        assert_close(mine[:, : len(response)], expected, atol=1e-4, rtol=1e-4)
    assert_packing_changes_nothing(monkeypatch, net, numbers, packs=can_pack(any_source), form=form)


def test_labels_have_the_gradient_of_padded_rows(
    monkeypatch: pytest.MonkeyPatch,
    any_source: ModelSource,
    make_causal_lm: Callable[..., PreTrainedModel],
    make_sequences: MakeSequences,
    form: str,
) -> None:
    net, sequences = make_causal_lm(any_source), make_sequences(PROMPTS, RESPONSES)
    ids, mask = sequences.input_ids, sequences.attention_mask
    labels = mask & (ids % 2 == 0) & (mask.cumsum(1) > 1)
    assert_packing_changes_nothing(
        monkeypatch, net, lambda: label_logprobs(net, ids, mask, labels), packs=can_pack(any_source), form=form
    )


def test_scores_and_values_have_the_gradient_of_padded_rows(
    monkeypatch: pytest.MonkeyPatch,
    source: ModelSource,
    make_scalar_model: Callable[..., ScalarModel],
    make_sequences: MakeSequences,
    form: str,
) -> None:
    net, sequences = make_scalar_model(source), make_sequences(PROMPTS, RESPONSES)

    def numbers() -> Tensor:
        return torch.where(sequences.response_mask, net.values(sequences), 0)

    assert_packing_changes_nothing(monkeypatch, net, numbers, packs=can_pack(source), form=form)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_that_begin_alike_have_the_gradient_of_padded_rows(
    monkeypatch: pytest.MonkeyPatch,
    any_source: ModelSource,
    make_causal_lm: Callable[..., PreTrainedModel],
    make_sequences: MakeSequences,
    form: str,
    attention: str,
) -> None:
    net = make_causal_lm(any_source)
    if attention == "sdpa" and net.config._attn_implementation != "sdpa":
        pytest.skip("the family has no such attention")
    net.set_attn_implementation(attention)
    sequences = make_sequences(ALIKE_PROMPTS, ALIKE_RESPONSES, left=1, right=2, filler=7)

    def numbers() -> Tensor:
        stats = response_stats(net, sequences, temperature=0.7, entropy=True)
        assert stats.entropy is not None
        return torch.stack([stats.logprobs, stats.entropy])

    assert_packing_changes_nothing(
        monkeypatch, net, numbers, packs=can_pack(any_source), form=form, shapes_of_call=ALIKE_PACKED
    )


def test_scores_of_rows_that_begin_alike_have_the_gradient_of_padded_rows(
    monkeypatch: pytest.MonkeyPatch,
    source: ModelSource,
    make_scalar_model: Callable[..., ScalarModel],
    make_sequences: MakeSequences,
    form: str,
) -> None:
    net, sequences = make_scalar_model(source), make_sequences(ALIKE_PROMPTS, ALIKE_RESPONSES)

    def numbers() -> Tensor:
        return net.scores(sequences.input_ids, sequences.attention_mask)

    assert_packing_changes_nothing(
        monkeypatch, net, numbers, packs=can_pack(source), form=form, shapes_of_call=ALIKE_PACKED
    )


def test_layers_that_are_computed_again_have_the_gradient_of_padded_rows(
    monkeypatch: pytest.MonkeyPatch,
    make_source: Callable[..., ModelSource],
    make_causal_lm: Callable[..., PreTrainedModel],
    make_sequences: MakeSequences,
    form: str,
) -> None:
    net, sequences = make_causal_lm(make_source("llama")), make_sequences(ALIKE_PROMPTS, ALIKE_RESPONSES)
    net.train().gradient_checkpointing_enable()
    calls = []
    net.model.layers[0].self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
    assert_packing_changes_nothing(
        monkeypatch,
        net,
        lambda: response_stats(net, sequences).logprobs,
        packs=True,
        form=form,
        shapes_of_call=ALIKE_PACKED,
    )
    assert len(calls) == 4


def test_rows_share_no_tokens_while_numbers_are_dropped_at_random(
    make_source: Callable[..., ModelSource], make_causal_lm: Callable[..., PreTrainedModel]
) -> None:
    ids, mask = torch.tensor([[*range(20), 30, 31], [*range(20), 40, 41]]), torch.ones(2, 22, dtype=torch.bool)
    for dropout, shape in ((0.0, (1, 24)), (0.1, None)):
        net = make_causal_lm(replace(make_source("llama"), dropout=dropout)).train()
        found = packing.packed(net, ids, mask)
        assert shape == (None if found is None else found.arguments["input_ids"].shape)
        net.eval()
        found = packing.packed(net, ids, mask)
        assert found is not None
    net = make_causal_lm(make_source("llama")).train()
    net.model.layers[0].mlp.append = nn.Dropout(0.1)
    assert packing.packed(net, ids, mask) is None


def test_rows_share_no_tokens_where_wider_rows_would_need_more_memory(
    make_source: Callable[..., ModelSource], make_causal_lm: Callable[..., PreTrainedModel]
) -> None:
    # A prompt of eight tokens and four answers of eight: 40 columns squared are more than four rows of 16 squared.
    ids = torch.stack([torch.tensor([*range(8), *range(start, start + 8)]) for start in (10, 20, 30, 40)])
    mask, net = torch.ones_like(ids, dtype=torch.bool), make_causal_lm(make_source("llama"))
    for attention, shape in (("sdpa", (1, 40)), ("eager", None)):
        net.set_attn_implementation(attention)
        found = packing.packed(net, ids, mask)
        assert shape == (None if found is None else found.arguments["input_ids"].shape)


def test_a_tree_is_no_wider_than_pays(
    make_source: Callable[..., ModelSource], make_causal_lm: Callable[..., PreTrainedModel]
) -> None:
    # A prompt of 100 tokens and 16 answers of 400. Two together have 900 columns, whose attention costs more than the
    # prompt that is saved.
    rows = [[*range(100), *((start * 7 + place) % 64 for place in range(400))] for start in range(16)]
    ids = torch.tensor(rows)
    net = make_causal_lm(make_source("llama"))
    assert packing.packed(net, ids, torch.ones_like(ids, dtype=torch.bool)) is None


def test_a_batch_without_much_padding_is_not_packed(
    monkeypatch: pytest.MonkeyPatch, make_source: Callable[..., ModelSource]
) -> None:
    monkeypatch.setattr(packing, "_takes_segments", lambda *_: False)
    net = nn.Module()
    net.config = make_source("llama").hf_config()  # type: ignore[assignment]
    net.config._attn_implementation = "sdpa"
    mask = torch.ones(4, 10, dtype=torch.bool)
    ids = torch.arange(40).view(4, 10)
    assert packing.packed(net, ids, mask) is None
    # Rows of 10, 10, 10 and 2 tokens fit into no fewer than four rows of ten.
    mask[3, 2:] = False
    assert packing.packed(net, ids, mask) is None
    # One of 10 and two of 5 and one of 3 do.
    mask[1, 5:] = mask[2, 5:] = mask[3, 3:] = False
    mask[3, :3] = True
    found = packing.packed(net, ids, mask)
    assert found is not None
    assert found.arguments["input_ids"].tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [10, 11, 12, 13, 14, 20, 21, 22, 23, 24],
        [30, 31, 32, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert found.arguments["position_ids"].tolist() == [[*range(10)], [*range(5), *range(5)], [*range(3), *[0] * 7]]


def test_flash_attention_gets_all_rows_as_one(make_source: Callable[..., ModelSource]) -> None:
    net = nn.Module()
    net.config = make_source("llama").hf_config()  # type: ignore[assignment]
    net.config._attn_implementation = "flash_attention_2"
    mask = torch.tensor([[False, True, True, True], [False, False, False, True], [True, True, False, False]])
    found = packing.packed(net, torch.arange(12).view(3, 4), mask)
    assert found is not None
    assert found.arguments["input_ids"].tolist() == [[1, 2, 3, 8, 9, 7]]
    assert found.arguments["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0]]
    assert "attention_mask" not in found.arguments
    assert found.arguments["cu_seq_lens_q"].tolist() == found.arguments["cu_seq_lens_k"].tolist() == [0, 3, 5, 6]
    assert found.arguments["max_length_q"] == found.arguments["max_length_k"] == 3


def flash_attention(q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    """What the kernel of flash attention computes for (B, T, H, D) queries, keys and values, by its documentation."""
    return torch.stack([one_row(*row, **settings) for row in zip(q, k, v, strict=True)])


def one_row(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    softmax_scale: float | None,
    dropout_p: float,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
) -> Tensor:
    """Attention of a row, whose last query is that of the last key."""
    assert causal
    assert dropout_p == 0
    groups = q.shape[1] // k.shape[1]
    keys, values = (part.repeat_interleave(groups, 1) for part in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, keys) * (softmax_scale or q.shape[2] ** -0.5)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    behind = torch.arange(len(q))[:, None] + len(k) - len(q) - torch.arange(len(k))
    hidden = (behind < 0) | ((behind > window_size[0]) if window_size[0] >= 0 else torch.tensor(False))
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), values)


def test_flash_attention_is_told_the_rows_by_every_family_that_gets_it(
    any_source: ModelSource,
    make_causal_lm: Callable[..., PreTrainedModel],
    make_sequences: MakeSequences,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everything but the kernel is that of transformers."""
    net, sequences = make_causal_lm(any_source), make_sequences(PROMPTS, RESPONSES, left=1, right=2, filler=7)
    if chosen_attention(net.config, "bf16-mixed", on_cuda=True, installed=True) is None:
        assert net.config.model_type in ("bloom", "gptj")
        return
    with without_packing():
        expected = response_stats(net, sequences).logprobs
    wanted = gradients(net, expected)
    rows: list[list[int]] = []

    def of_line(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float,
        softmax_scale: float | None,
        causal: bool,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
    ) -> Tensor:
        assert torch.equal(cu_seqlens_q, cu_seqlens_k)
        rows.append(cu_seqlens_q.diff().tolist())
        line = zip(*(part.split(rows[-1]) for part in (q, k, v)), strict=True)
        settings: Any = {"dropout_p": dropout_p, "softmax_scale": softmax_scale, "causal": causal}
        return torch.cat([one_row(*row, **settings, window_size=window_size, softcap=softcap) for row in line])

    kernels = (
        (flash_attention, of_line, None, None, None),
        (
            flash_utils._lazy_define_process_function(of_line),
            dict,
        ),
    )
    monkeypatch.setattr(flash_utils, "lazy_import_flash_attention", lambda *_, **__: kernels)

    def looked(*_: object) -> bool:
        raise AssertionError("transformers looks at positions to find the rows, and so waits for a GPU in each layer")

    monkeypatch.setattr(flash_utils, "_is_packed_sequence", looked)
    net.config._attn_implementation = FLASH
    # transformers casts fp32 to the type in which a kernel computes, which is not known here outside autocast.
    found = response_stats(net.double(), sequences).logprobs.float()
    # The longest row comes first.
    assert rows == [[9, 7, 5, 3, 2]] * net.config.num_hidden_layers
    assert_close(found, expected, atol=1e-4, rtol=1e-4)
    for gradient, other in zip(gradients(net, found), wanted, strict=True):
        scale = max(1.0, float(other.abs().max()))
        assert_close(gradient.float() / scale, other / scale, atol=1e-4, rtol=1e-4)


def test_segments_contain_no_padding(make_source: Callable[..., ModelSource], monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Module()
    net.config = make_source("llama").hf_config()  # type: ignore[assignment]
    net.config._attn_implementation = "sdpa"
    ids = torch.arange(18).view(3, 6)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]], dtype=torch.bool)
    # The longest row comes first. The two others fit together into a segment of five, and all fit into one of eleven.
    for room, segments in ((4, [0] * 6 + [1] * 3 + [2] * 2), (5, [0] * 6 + [1] * 5), (11, [0] * 11)):
        monkeypatch.setattr(packing, "_SEGMENT", room)
        monkeypatch.setattr(packing, "_takes_segments", lambda *_: True)
        found = packing.packed(net, ids, mask)
        assert found is not None
        assert found.arguments["input_ids"].tolist() == [[*range(6, 12), 0, 1, 2, 16, 17]]
        assert found.arguments["position_ids"].tolist() == [[*range(6), *range(3), *range(2)]]
        assert found.arguments["attention_mask"].tolist() == [[[[6] * 6 + [9] * 3 + [11] * 2, segments]]]


def test_compiled_code_and_short_windows_get_rows(
    make_source: Callable[..., ModelSource], make_causal_lm: Callable[..., PreTrainedModel], form: str
) -> None:
    ids = torch.tensor([[*range(8)], [*range(10, 18)], [*range(20, 28)]])
    mask = torch.tensor([[True] * 8, [True] * 3 + [False] * 5, [True] * 2 + [False] * 6])
    segments = {"segments": (1, 13), "rows": (2, 8)}[form]

    def shape(net: nn.Module) -> torch.Size:
        found = packing.packed(net, ids, mask)
        assert found is not None
        return found.arguments["input_ids"].shape

    net = make_causal_lm(make_source("llama"))
    assert shape(net) == segments
    for window, expected in ((7, (2, 8)), (8, segments)):
        net.config.sliding_window = window
        assert shape(net) == expected
    net.model.layers[0].compile()
    assert shape(net) == (2, 8)
