"""The reference engine, compared with a loop that runs each row alone, without padding and without a cache."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from support import free_port
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_rlhf.distributed import phases
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.engines.engine import Completion, Request
from lightning_rlhf.rollout.engines.padded import PaddedEngine
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey, keyed_uniforms

MakeNet = Callable[..., PreTrainedModel]
CPU = torch.device("cpu")
PROMPTS = 3 * [[11, 12, 13, 14], [7], [21, 7, 2], [3, 4], [5, 6, 5, 6, 5], [60, 61], [9]]
MAX_NEW = 12
STOPS = tuple(range(2, 64, 4))
REQUESTS = [Request(prompt, RandomKey(0, (SAMPLING, 3), row)) for row, prompt in enumerate(PROMPTS)]
NUMBERS = keyed_uniforms([request.key for request in REQUESTS], MAX_NEW)
WHOLE = Sampling(max_new_tokens=MAX_NEW, temperature=4.0)


def answered(
    net: nn.Module, requests: list[Request], sampling: Sampling, stops: tuple[int, ...], size: int = 64
) -> list[Completion]:
    return PaddedEngine(net, CPU, micro_batch_size=size).generate(requests, sampling, stop_ids=stops)


def ids_of(completions: list[Completion]) -> list[list[int]]:
    return [completion.ids for completion in completions]


@torch.no_grad()
def naive_response(net: nn.Module, prompt: list[int], sampling: Sampling, numbers: Tensor) -> list[int]:
    """Runs the whole prefix through the model for each token, and inverts the distribution function by counting."""
    ids = list(prompt)
    for number in numbers.tolist():
        logits = net(torch.tensor([ids])).logits[0, -1].double()
        if sampling.temperature == 0:
            token = int(logits.argmax())
        else:
            below = (logits / sampling.temperature).softmax(-1).cumsum(-1) < number
            token = int(below.sum())
        ids.append(token)
        if token in STOPS:
            break
    return ids[len(prompt) :]


def naive_responses(net: nn.Module, sampling: Sampling) -> list[list[int]]:
    return [naive_response(net, prompt, sampling, row) for prompt, row in zip(PROMPTS, NUMBERS, strict=True)]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 4.0])
def test_tokens_are_those_of_a_loop_without_batch_and_cache(
    source: ModelSource, make_causal_lm: MakeNet, temperature: float
) -> None:
    net, sampling = make_causal_lm(source), Sampling(max_new_tokens=MAX_NEW, temperature=temperature)
    expected = naive_responses(net, sampling)
    completions = answered(net, REQUESTS, sampling, STOPS)
    assert ids_of(completions) == expected
    ends = ["stop" if response[-1] in STOPS else "length" for response in expected]
    assert [completion.finish_reason for completion in completions] == ends


def test_finished_rows_leave_the_batch_and_the_others_go_on_as_before(
    source: ModelSource, make_causal_lm: MakeNet
) -> None:
    net, batch_sizes = make_causal_lm(source), []
    expected = naive_responses(net, WHOLE)
    handle = net.register_forward_pre_hook(
        lambda _, args, kwargs: batch_sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    completions = answered(net, REQUESTS, WHOLE, STOPS)
    handle.remove()
    # Rows that continue after each token become the batch once they are at most half of it.
    sizes = [len(PROMPTS)]
    for step in range(1, max(map(len, expected))):
        active = sum(len(response) > step for response in expected)
        sizes.append(active if active <= sizes[-1] // 2 else sizes[-1])
    assert len(set(sizes)) > 2, "the example must shrink more than once"
    assert batch_sizes == sizes
    assert ids_of(completions) == expected


class Chain(nn.Module):
    """A model without a cache that gives each token the logits of a table."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table, self.calls = table, 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **kwargs: object) -> SimpleNamespace:
        self.calls += 1
        return SimpleNamespace(logits=self.table[input_ids], past_key_values=None)


COUNT_UP = Chain(torch.eye(10).roll(1, dims=1))
GREEDY = Sampling(max_new_tokens=4, temperature=0)


def counted(starts: list[int], stops: tuple[int, ...]) -> list[Completion]:
    return answered(COUNT_UP, [Request([start], REQUESTS[0].key) for start in starts], GREEDY, stops)


@pytest.mark.parametrize(
    ("stops", "expected", "ends"),
    [
        ((3,), [[1, 2, 3], [6, 7, 8, 9]], ["stop", "length"]),
        ((8, 3), [[1, 2, 3], [6, 7, 8]], ["stop", "stop"]),  # each of several stops
        ((6, 1), [[1], [6]], ["stop", "stop"]),  # stops at once
        ((4,), [[1, 2, 3, 4], [6, 7, 8, 9]], ["stop", "length"]),  # stops at the limit
        ((), [[1, 2, 3, 4], [6, 7, 8, 9]], ["length", "length"]),
    ],
)
def test_a_response_ends_with_its_first_stop_token_and_else_at_the_limit(
    stops: tuple[int, ...], expected: list[list[int]], ends: list[str]
) -> None:
    completions = counted([0, 5], stops)
    assert ids_of(completions) == expected
    assert [completion.finish_reason for completion in completions] == ends


def test_id_0_can_be_a_stop_token() -> None:
    completions = counted([8, 1], (0,))
    assert ids_of(completions) == [[9, 0], [2, 3, 4, 5]]
    assert [completion.finish_reason for completion in completions] == ["stop", "length"]


def test_micro_batches_of_no_request_are_refused() -> None:
    with pytest.raises(UserError, match=r"rollout\.engine\.micro_batch_size=0: must be positive"):
        PaddedEngine(COUNT_UP, CPU, micro_batch_size=0)


def test_an_engine_keeps_no_activations_outside_a_rollout_either() -> None:
    recorded = []

    class Recording(Chain):
        def forward(self, input_ids: Tensor, attention_mask: Tensor, **kwargs: object) -> SimpleNamespace:
            recorded.append(torch.is_grad_enabled())
            return super().forward(input_ids, attention_mask, **kwargs)

    for _ in PaddedEngine(Recording(COUNT_UP.table), CPU).stream(Request([0], REQUESTS[0].key), GREEDY, stop_ids=()):
        recorded.append(torch.is_grad_enabled())
    # The values are recorded while the model is called, and between two tokens.
    assert recorded == 4 * [False, True]


# Micro-batches of two, with responses of 2, 1, 4 and 1 tokens, need 2 calls and then 4.
STARTS = [[1, 2, 9, 2], [], [2]]


def _count_in_a_process(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=len(STARTS))
    phases._LAYERWISE.set(True)
    requests = [Request([start], REQUESTS[0].key) for start in STARTS[rank]]
    net: Any = Chain(COUNT_UP.table)
    completions = answered(net, requests, GREEDY, (3,), size=2)
    Path(folder, str(rank)).write_text(f"{net.calls} {ids_of(completions)}")
    torch.distributed.destroy_process_group()


def test_ranks_with_fewer_requests_call_the_net_as_often_as_the_others_where_each_call_gathers(tmp_path: Path) -> None:
    mp.spawn(_count_in_a_process, (free_port(), str(tmp_path)), nprocs=len(STARTS))
    found = [(tmp_path / str(rank)).read_text() for rank in range(len(STARTS))]
    assert found == ["6 [[2, 3], [3], [0, 1, 2, 3], [3]]", "6 []", "6 [[3]]"]
