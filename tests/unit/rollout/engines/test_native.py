"""The native engine, compared with the reference engine on every family, and the steps that it takes."""

import copy
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from support import free_port
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import PreTrainedModel

from lightning_rlhf.distributed import phases
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Sequences
from lightning_rlhf.models import arranged
from lightning_rlhf.models.adapters.lora import Lora
from lightning_rlhf.models.attention import FLASH
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.column_cache import ColumnCache, is_supported, takes_prepared_mask
from lightning_rlhf.models.forward import response_stats
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.engines.engine import Completion, Request
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.engines.padded import PaddedEngine
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey

MakeNet = Callable[..., PreTrainedModel]
MakeSource = Callable[..., ModelSource]
CPU = torch.device("cpu")
# Two prompts are the same, two have one token, and the longest has more tokens than a window.
PROMPTS = [
    [11, 12, 13],
    [7],
    [21, 7, 2, 9, 9, 30, 31, 32, 33],
    [3, 4],
    [5, 6, 5, 6, 5],
    [7],
    [60, 61],
    [9],
    [1, 2, 3, 4],
]
REQUESTS = [Request(prompt, RandomKey(0, (SAMPLING, 3), row)) for row, prompt in enumerate(PROMPTS)]
STOPS = tuple(range(2, 64, 12))
WHOLE = Sampling(max_new_tokens=14, temperature=2.0)

_DECODER = {
    "initializer_range": 0.4,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hidden_size": 32,
    "intermediate_size": 64,
}
# The families of conf/model that the fixture `source` does not have, and variants whose attention differs.
OTHERS: dict[str, dict[str, Any]] = {
    "llama3": {"model_type": "llama", **_DECODER, "rope_theta": 5e5, "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", **_DECODER, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", **_DECODER},
    "mistral": {"model_type": "mistral", **_DECODER, "sliding_window": None},
    "mistral with a window": {"model_type": "mistral", **_DECODER, "sliding_window": 4},
    "gemma": {"model_type": "gemma", **_DECODER},
    "gemma2": {
        "model_type": "gemma2",
        **_DECODER,
        "sliding_window": 4,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 6.0,
        "query_pre_attn_scalar": 8,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        **_DECODER,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 8,
    },
    "opt that normalises after its blocks": {
        "model_type": "opt",
        "init_std": 0.4,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_size": 32,
        "ffn_dim": 64,
        "word_embed_proj_dim": 16,
        "max_position_embeddings": 64,
        "do_layer_norm_before": False,
    },
}


@pytest.fixture(params=["as they lie", "arranged"])
def weights(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether matrices are arranged before a rollout; those of these models are too small for it otherwise."""
    if request.param == "arranged":
        for name in ("SMALL", "FEW", "CALLS", "TRANSPOSED_CALLS"):
            monkeypatch.setattr(arranged, name, 1)


def native(net: nn.Module, **settings: Any) -> NativeEngine:
    return NativeEngine(net, CPU, **({"max_rows": 3, "prefill_tokens": 10} | settings))


def same_as_the_reference(
    net: nn.Module,
    requests: list[Request] = REQUESTS,
    sampling: Sampling = WHOLE,
    stop_ids: tuple[int, ...] = STOPS,
    **how: Any,
) -> list[Completion]:
    """Checks the tokens, log-probs and ends of the native engine, and returns its completions."""
    expected = PaddedEngine(net, CPU).generate(requests, sampling, stop_ids=stop_ids, **how)
    completions = native(net).generate(requests, sampling, stop_ids=stop_ids, **how)
    assert [completion.ids for completion in completions] == [completion.ids for completion in expected]
    assert [one.finish_reason for one in completions] == [one.finish_reason for one in expected]
    for one, other in zip(completions, expected, strict=True):
        assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-4, rtol=1e-4)
    return completions


@pytest.mark.usefixtures("weights")
def test_tokens_are_those_of_the_reference_engine(source: ModelSource, make_causal_lm: MakeNet) -> None:
    completions = same_as_the_reference(make_causal_lm(source))
    lengths = [len(completion.ids) for completion in completions]
    assert min(lengths) < 7
    assert max(lengths) == WHOLE.max_new_tokens


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("family", OTHERS)
def test_tokens_are_those_of_the_reference_engine_in_other_families_too(
    family: str, make_source: MakeSource, make_causal_lm: MakeNet
) -> None:
    source = make_source()
    net = make_causal_lm(ModelSource(config={"vocab_size": 64, **OTHERS[family]}, tokenizer=source.tokenizer))
    assert is_supported(net)
    same_as_the_reference(net)


@torch.no_grad()
def says_what_the_scorer_says(net: nn.Module, make_sequences: Callable[..., Sequences]) -> None:
    """Checks log-probs and entropies of both engines, whose batches rows join and leave, to rounding in fp32."""
    requests = [request._replace(entropy=True) for request in REQUESTS]
    for engine in (native(net), PaddedEngine(net, CPU, micro_batch_size=4)):
        completions = engine.generate(requests, WHOLE, stop_ids=STOPS)
        sequences = make_sequences(PROMPTS, [completion.ids for completion in completions])
        scored = response_stats(net, sequences, temperature=WHOLE.temperature, entropy=True)
        mask = sequences.response_mask
        logprobs = torch.tensor([number for completion in completions for number in completion.logprobs])
        entropies = torch.tensor([number for completion in completions for number in completion.entropies or ()])
        assert scored.entropy is not None
        assert_close(logprobs, scored.logprobs[mask], atol=1e-5, rtol=0)
        assert_close(entropies, scored.entropy[mask], atol=1e-5, rtol=0)
        assert entropies.std() > 0.05


@pytest.mark.usefixtures("weights")
def test_log_probs_and_entropies_are_those_of_the_scorer(
    source: ModelSource, make_causal_lm: MakeNet, make_sequences: Callable[..., Sequences]
) -> None:
    says_what_the_scorer_says(make_causal_lm(source), make_sequences)


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("family", OTHERS)
def test_log_probs_and_entropies_are_those_of_the_scorer_in_other_families_too(
    family: str, make_source: MakeSource, make_causal_lm: MakeNet, make_sequences: Callable[..., Sequences]
) -> None:
    config = {"vocab_size": 64, **OTHERS[family]}
    source = ModelSource(config=config, tokenizer=make_source().tokenizer)
    says_what_the_scorer_says(make_causal_lm(source), make_sequences)


def test_entropies_are_given_to_those_who_ask(net: PreTrainedModel) -> None:
    for engine in (native(net), PaddedEngine(net, CPU)):
        assert {one.entropies for one in engine.generate(REQUESTS, WHOLE, stop_ids=STOPS)} == {None}
        assert {token.entropy for token in engine.stream(REQUESTS[0], WHOLE, stop_ids=STOPS)} == {None}
        asked = engine.stream(REQUESTS[0]._replace(entropy=True), WHOLE, stop_ids=STOPS)
        assert all(token.entropy is not None and token.entropy > 0 for token in asked)


@pytest.fixture
def net(make_source: MakeSource, make_causal_lm: MakeNet) -> PreTrainedModel:
    return make_causal_lm(make_source("llama"))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "gpt_neox"])
def test_both_forms_of_attention_take_the_mask(
    family: str, attention: str, make_source: MakeSource, make_causal_lm: MakeNet
) -> None:
    net = make_causal_lm(replace(make_source(family), attn_implementation=attention))
    assert net.config._attn_implementation == attention
    assert takes_prepared_mask(net)
    same_as_the_reference(net)


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_columns_are_used_again_and_more_are_taken_for_long_responses(
    family: str, make_source: MakeSource, make_causal_lm: MakeNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, move = [], ColumnCache._move

    def watched(cache: ColumnCache, end: int) -> None:
        move(cache, end)
        sizes.append(cache._mask.shape[1])

    monkeypatch.setattr(ColumnCache, "_move", watched)
    long = Sampling(max_new_tokens=110, temperature=2.0)
    same_as_the_reference(make_causal_lm(make_source(family)), REQUESTS, long, (2,))
    # The memory has columns for the longest prompt (9), a third of it, and 64 more at first.
    # The longest row has 9 + 110 columns, and an eighth is to spare; 134 columns are rounded up to a multiple of 8.
    assert 76 < max(sizes) <= 136
    assert len({*sizes}) < len(sizes), "the same memory must be used again"


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_kernels_of_attention_on_gpus_can_read_each_mask_without_copying_it(
    family: str, make_source: MakeSource, make_causal_lm: MakeNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks, firsts, mask = [], set(), ColumnCache.mask

    def watched(cache: ColumnCache) -> torch.Tensor:
        masks.append(mask(cache))
        firsts.add(cache.columns.start)
        return masks[-1]

    monkeypatch.setattr(ColumnCache, "mask", watched)
    longest = Request([*range(20, 50)], RandomKey(0, (SAMPLING, 3), len(REQUESTS)))
    same_as_the_reference(make_causal_lm(make_source(family)), [longest, *REQUESTS])
    # Rows leave, so the columns in use begin anywhere.
    assert any(first % 8 for first in firsts)
    assert any(one.storage_offset() for one in masks)
    for one in masks:
        assert one.stride(-1) == 1
        assert [number % 8 for number in (one.storage_offset(), *one.stride()[:-1])] == [0, 0, 0, 0]


@contextmanager
def calls(net: nn.Module) -> Iterator[list[tuple[int, int]]]:
    """Collects the shapes of the ids that a model is called with."""
    shapes: list[tuple[int, int]] = []
    handle = net.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield shapes
    handle.remove()


def test_no_step_is_spent_on_a_response_that_has_ended(net: PreTrainedModel) -> None:
    with calls(net) as shapes:
        completions = native(net, prefill_tokens=1000).generate(REQUESTS, WHOLE, stop_ids=STOPS)
    # The first token of each response is drawn when its prompt has been read. One of the nine prompts occurs twice.
    lengths = [len(completion.ids) - 1 for completion in completions]
    assert sum(rows for rows, _ in shapes) == 8 + sum(lengths)
    # No more prompts are read at a time than there are rows, which bounds the memory.
    assert max(rows for rows, _ in shapes) == 3
    # The batch is full while responses wait, and then loses those that end.
    widths = [rows for rows, width in shapes if width == 1]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == 3
    assert len(widths) < sum(sorted(lengths)[-3:]), "the example must let responses wait"


def test_samples_of_one_prompt_read_it_once(net: PreTrainedModel) -> None:
    prompt = [5, 6, 7, 8, 9, 10]
    requests = [Request(prompt, RandomKey(0, (SAMPLING, 3), row)) for row in range(5)]
    with calls(net) as shapes:
        together = native(net).generate(requests, WHOLE, stop_ids=STOPS)
    assert [shape for shape in shapes if shape[1] > 1] == [(1, 6)]
    alone = [native(net).generate([request], WHOLE, stop_ids=STOPS)[0] for request in requests]
    assert [one.ids for one in together] == [one.ids for one in alone]
    assert len({tuple(one.ids) for one in together}) == 5


def test_the_first_requests_are_answered_first_though_later_prompts_are_longer(net: PreTrainedModel) -> None:
    requests = [Request([*range(3, 4 + row)], RandomKey(0, (SAMPLING, 3), row)) for row in range(9)]
    short = Sampling(max_new_tokens=2)
    answered = [one.request for one in native(net, prefill_tokens=9).iterate(requests, short, stop_ids=())]
    assert [{*answered[start : start + 3]} for start in (0, 3, 6)] == [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}]
    same_as_the_reference(net, requests, short, ())


@pytest.mark.parametrize("prompts", [[[7]], [[3, 4, 5]], [[7], [8], [9], [10], [7]]])
@pytest.mark.parametrize("max_new_tokens", [1, 6])
def test_one_request_and_prompts_of_one_token_are_answered_too(
    net: PreTrainedModel, prompts: list[list[int]], max_new_tokens: int
) -> None:
    requests = [Request(prompt, REQUESTS[row].key) for row, prompt in enumerate(prompts)]
    same_as_the_reference(net, requests, Sampling(max_new_tokens=max_new_tokens), ())


def test_responses_may_all_end_with_their_first_token(net: PreTrainedModel) -> None:
    completions = same_as_the_reference(net, stop_ids=tuple(range(64)))
    assert {len(completion.ids) for completion in completions} == {1}


@pytest.mark.parametrize("family", ["gpt2", "opt", "gptj"])
def test_a_response_may_use_the_last_position_that_the_model_has(
    family: str, make_source: MakeSource, make_causal_lm: MakeNet
) -> None:
    net = make_causal_lm(make_source(family))
    # The last token is not read, so 61 + 4 - 1 of 64 positions are used by the long row, beside a short one.
    requests = [Request([*range(3, 64)], REQUESTS[0].key), REQUESTS[1]]
    completions = same_as_the_reference(net, requests, Sampling(max_new_tokens=4), ())
    assert [len(completion.ids) for completion in completions] == [4, 4]


@pytest.mark.slow
def test_every_block_of_a_compiled_model_is_compiled_for_steps_too(
    make_source: MakeSource, make_causal_lm: MakeNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The compiler of C++ would take minutes, and the graphs are the same without it.
    compile_with, graphs = nn.Module.compile, list[torch.fx.GraphModule]()

    def counted(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(nn.Module, "compile", lambda block, **how: compile_with(block, backend=counted, **how))
    torch._dynamo.reset()
    source = make_source("gpt2", n_layer=9)
    compiled, plain = (make_causal_lm(replace(source, compile=each)) for each in (True, False))
    expected = native(plain).generate(REQUESTS, WHOLE, stop_ids=STOPS)
    completions = native(compiled).generate(REQUESTS, WHOLE, stop_ids=STOPS)
    torch._dynamo.reset()
    assert [one.ids for one in completions] == [one.ids for one in expected]
    # Each block has a graph for prompts and one for steps; PyTorch's limit for all blocks together would be eight.
    assert len(graphs) >= 18
    # The number of columns is no constant of a graph, so further tokens need no further graph. One row is a case of its
    # own for the compiler, and so is the first shape that it meets.
    assert len(graphs) <= 5 * 9 < 9 * WHOLE.max_new_tokens


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_adapters_take_part_in_sampling(
    quantization: str | None, make_source: MakeSource, make_causal_lm: MakeNet
) -> None:
    source = replace(make_source("llama"), adapter=Lora(rank=4), quantization=quantization)
    net = make_causal_lm(source)
    before = same_as_the_reference(net)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    assert [one.ids for one in same_as_the_reference(net)] != [one.ids for one in before]


def test_a_model_with_flash_attention_samples_without_it(net: PreTrainedModel) -> None:
    expected = native(net).generate(REQUESTS, WHOLE, stop_ids=STOPS)
    net.config._attn_implementation = FLASH
    # There is no such kernel here, so that a call of it would fail.
    assert native(net).generate(REQUESTS, WHOLE, stop_ids=STOPS) == expected
    assert net.config._attn_implementation == FLASH


@pytest.fixture
def net_in_8_bits(make_source: MakeSource, make_causal_lm: MakeNet) -> PreTrainedModel:
    pytest.importorskip("bitsandbytes", reason="needs the extra bitsandbytes")
    # The library warns at each call that it rounds inputs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    return make_causal_lm(replace(make_source("llama"), adapter=Lora(rank=4), quantization="int8"))


def set_outliers(net: nn.Module, threshold: float) -> None:
    """Sets the size from which an input of an 8-bit layer is an outlier; 0 turns the search for outliers off."""
    layers: list[Any] = [module for module in net.modules() if type(module).__module__ == "bitsandbytes.nn.modules"]
    assert len(layers) == 14
    for layer in layers:
        layer.state.threshold = threshold


# Either no column has outliers, so that all inputs are rounded to 8 bits, or all columns have.
@pytest.mark.parametrize("threshold", [0.0, 1e-9])
def test_a_model_in_8_bits_samples_like_the_reference_engine(net_in_8_bits: PreTrainedModel, threshold: float) -> None:
    set_outliers(net_in_8_bits, threshold)
    before = same_as_the_reference(net_in_8_bits)
    with torch.no_grad():
        for name, weight in net_in_8_bits.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    assert [one.ids for one in same_as_the_reference(net_in_8_bits)] != [one.ids for one in before]


@torch.no_grad()
def test_an_outlier_of_one_row_changes_how_8_bit_layers_round_the_others(net_in_8_bits: PreTrainedModel) -> None:
    # Engines with other batches differ by this, so the test above sets the threshold.
    layer = next(module for name, module in net_in_8_bits.named_modules() if name.endswith("q_proj.base_layer"))
    row, other = torch.randn(2, 1, 1, 32, generator=torch.Generator().manual_seed(0))
    with_outlier = other.clone()
    with_outlier[..., 3] = 100.0
    beside, beside_outlier = (layer(torch.cat([row, each]))[:1] for each in (other, with_outlier))
    assert torch.equal(layer(row), beside)
    assert (beside_outlier - beside).abs().max() > 1e-4
    set_outliers(net_in_8_bits, 0.0)
    assert torch.equal(layer(torch.cat([row, with_outlier]))[:1], layer(row))


def test_a_model_that_plays_all_roles_samples_too(net: PreTrainedModel) -> None:
    assert is_supported(Backbone(net))
    assert takes_prepared_mask(Backbone(net))
    completions = native(Backbone(net)).generate(REQUESTS, WHOLE, stop_ids=STOPS)
    assert completions == native(net).generate(REQUESTS, WHOLE, stop_ids=STOPS)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"top_k": 3},
        {"top_p": 0.5},
        {"min_p": 0.2},
        {"repetition_penalty": 1.7},
        {"temperature": 0.0, "repetition_penalty": 2.5},
    ],
)
def test_each_setting_of_the_distribution_is_that_of_the_reference_engine(
    net: PreTrainedModel, settings: dict[str, float]
) -> None:
    plain = native(net).generate(REQUESTS, WHOLE, stop_ids=STOPS)
    completions = same_as_the_reference(net, sampling=replace(WHOLE, **settings))
    assert [one.ids for one in completions] != [one.ids for one in plain], "the setting must matter"


# Each token stands for three letters, and some of the texts that end a response begin in one token and end in another.
PIECES = ["".join("abcd"[number // 4**place % 4] for place in range(3)) for number in range(64)]
TEXTS = ("ddb", "cab", "aaaa")


def decode(ids: Any) -> str:
    return "".join(PIECES[token] for token in ids)


def test_a_text_ends_a_response_also_where_it_begins_in_one_token_and_ends_in_another(net: PreTrainedModel) -> None:
    free = native(net).generate(REQUESTS, WHOLE, stop_ids=())
    cut = same_as_the_reference(net, sampling=replace(WHOLE, stop=TEXTS), stop_ids=(), decode=decode)
    within = across = 0
    for whole, one in zip(free, cut, strict=True):
        # The whole text is searched after each token.
        ends = [end for end in range(1, 15) if any(text in decode(whole.ids[:end]) for text in TEXTS)]
        assert one.ids == whole.ids[: ends[0] if ends else 14]
        assert one.finish_reason == ("stop" if ends else "length")
        is_within = bool(ends) and any(text in PIECES[one.ids[-1]] for text in TEXTS)
        within, across = within + is_within, across + (bool(ends) and not is_within)
    assert within
    assert across


def test_texts_that_end_responses_need_a_function_that_makes_text(net: PreTrainedModel) -> None:
    with pytest.raises(UserError, match=r"sampling\.stop=\['Human:'\]: .* pass decode="):
        native(net).generate(REQUESTS, Sampling(max_new_tokens=4, stop=["Human:"]), stop_ids=())


def test_numbers_that_are_not_positive_are_refused(net: PreTrainedModel) -> None:
    with pytest.raises(UserError, match=r"rollout\.engine\.max_rows=0: must be positive"):
        native(net, max_rows=0)
    with pytest.raises(UserError, match=r"rollout\.engine\.prefill_tokens=-1: must be positive"):
        native(net, prefill_tokens=-1)


class Recurrent(nn.Module):
    """A model with a state that is no keys and values: the sum of all tokens, modulo 10."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_sizes: list[int] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past_key_values: Any = None, **_: object) -> Any:
        self.batch_sizes.append(len(input_ids))
        before = torch.zeros(len(input_ids), 1, dtype=torch.long) if past_key_values is None else past_key_values
        sums = (before + (input_ids * attention_mask[:, -input_ids.shape[1] :]).cumsum(1)) % 10
        return SimpleNamespace(logits=torch.eye(10)[sums], past_key_values=sums[:, -1:])


def test_a_model_whose_state_is_no_keys_and_values_samples_in_padded_batches() -> None:
    net, greedy = Recurrent(), Sampling(max_new_tokens=3, temperature=0)
    assert not is_supported(net)
    requests = [Request([start], REQUESTS[0].key) for start in range(4)]
    completions = native(net).generate(requests, greedy, stop_ids=())
    # Each token is the sum of all before it: 1, then 1 + 1, then 1 + 1 + 2.
    assert [completion.ids for completion in completions] == [[0, 0, 0], [1, 2, 4], [2, 4, 8], [3, 6, 2]]
    assert max(net.batch_sizes) == 3


def test_layers_that_the_cache_does_not_know_are_not_supported(net: PreTrainedModel) -> None:
    for kind in ("linear_attention", "chunked_attention"):
        other = copy.deepcopy(net)
        other.config.layer_types = ["full_attention", kind]
        assert not is_supported(other)


def test_no_activations_are_kept_outside_a_rollout_either(net: PreTrainedModel) -> None:
    recorded = []
    handle = net.register_forward_pre_hook(lambda *_: recorded.append(torch.is_grad_enabled()))
    for _ in native(net).stream(REQUESTS[0], replace(WHOLE, max_new_tokens=4), stop_ids=()):
        recorded.append(torch.is_grad_enabled())
    handle.remove()
    # The values are recorded while the model is called, and between two tokens.
    assert recorded == 4 * [False, True]


# Three processes with more requests than places, none, and one.
SHARES = [slice(0, 8), slice(8, 8), slice(8, 9)]


def _sample_in_a_process(rank: int, port: int, folder: str, net: nn.Module) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=len(SHARES))
    phases._LAYERWISE.set(True)
    with calls(net) as shapes:
        completions = native(net).generate(REQUESTS[SHARES[rank]], WHOLE, stop_ids=STOPS)
    Path(folder, str(rank)).write_text(json.dumps([len(shapes), [completion.ids for completion in completions]]))
    torch.distributed.destroy_process_group()


def test_processes_call_the_model_equally_often_where_each_call_gathers(net: PreTrainedModel, tmp_path: Path) -> None:
    expected = [completion.ids for completion in native(net).generate(REQUESTS, WHOLE, stop_ids=STOPS)]
    mp.spawn(_sample_in_a_process, (free_port(), str(tmp_path), net), nprocs=len(SHARES))
    found = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(len(SHARES))]
    assert len({number for number, _ in found}) == 1
    assert [ids for _, ids in found] == [expected[share] for share in SHARES]
