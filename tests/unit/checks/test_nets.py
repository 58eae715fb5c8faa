"""Checks of reward model and critic, on models of six families that are correct and on some that are not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_rlhf.checks.nets import beats_length, ignores_padding, reads_last_token
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.ops.masked import masked_mean

MakeScalarModel = Callable[..., ScalarModel]
ROWS = [[11, 12, 13, 14, 15], [21, 22]]
LIMIT = 1e-4


def blind_to_the_mask(net: ScalarModel) -> ScalarModel:
    """A model that treats padding as tokens."""

    def see_all(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, kwargs | {"attention_mask": torch.ones_like(kwargs["attention_mask"])}

    net.net.base_model.register_forward_pre_hook(see_all, with_kwargs=True)
    return net


@torch.no_grad()
def test_a_net_that_reads_its_mask_passes(source: ModelSource, make_scalar_model: MakeScalarModel) -> None:
    net = make_scalar_model(source)
    assert ignores_padding("critic", net, ROWS, LIMIT).status == "ok"
    assert reads_last_token("reward model", net, ROWS, LIMIT).status == "ok"


@pytest.mark.parametrize("rows", [ROWS, [[11, 12, 13], [21, 22, 23]], [[11, 12, 13]]])
@torch.no_grad()
def test_a_net_that_reads_padding_is_found_though_the_rows_need_none(
    rows: list[list[int]], make_source: Callable[..., ModelSource], make_scalar_model: MakeScalarModel
) -> None:
    net = blind_to_the_mask(make_scalar_model(make_source("llama")))
    finding = ignores_padding("critic", net, rows, LIMIT)
    assert (finding.check, finding.status) == ("critic: padding", "error")


@torch.no_grad()
def test_a_critic_that_reads_padding_is_found_though_its_head_is_still_0(
    make_source: Callable[..., ModelSource], make_scalar_model: MakeScalarModel
) -> None:
    net = make_scalar_model(make_source("gpt2"), "zero")
    assert ignores_padding("critic", net, ROWS, LIMIT).status == "ok"
    assert ignores_padding("critic", blind_to_the_mask(net), ROWS, LIMIT).status == "error"


def mean_of_real_tokens(net: ScalarModel, ids: Tensor, mask: Tensor) -> Tensor:
    return masked_mean(net(ids, mask), mask, dim=1)


def mean_of_all_columns(net: ScalarModel, ids: Tensor, mask: Tensor) -> Tensor:
    return net(ids, mask).mean(1)


def last_column(net: ScalarModel, ids: Tensor, mask: Tensor) -> Tensor:
    return net(ids, mask)[:, -1]


def token_before(net: ScalarModel, ids: Tensor, mask: Tensor) -> Tensor:
    return net(ids, mask)[:, :-1].gather(1, mask.long().cumsum(1).argmax(1, keepdim=True) - 1)[:, 0]


def as_if_padded_at_the_right(net: ScalarModel, ids: Tensor, mask: Tensor) -> Tensor:
    return net(ids, mask).gather(1, mask.sum(1, keepdim=True) - 1)[:, 0]


@pytest.mark.parametrize(
    "wrong", [mean_of_real_tokens, mean_of_all_columns, last_column, token_before, as_if_padded_at_the_right]
)
@torch.no_grad()
def test_a_score_that_is_not_that_of_the_last_token_is_an_error(
    wrong: Callable, make_source: Callable[..., ModelSource], make_scalar_model: MakeScalarModel
) -> None:
    net = make_scalar_model(make_source("llama"))
    net.scores = lambda ids, mask: wrong(net, ids, mask)  # type: ignore[method-assign]
    finding = reads_last_token("reward model short", net, ROWS, LIMIT)
    assert (finding.check, finding.status) == ("reward model short: last token", "error")


@torch.no_grad()
def test_a_score_that_is_not_a_number_is_an_error(
    make_source: Callable[..., ModelSource], make_scalar_model: MakeScalarModel
) -> None:
    net = make_scalar_model(make_source("llama"))
    nn.init.constant_(net.bias, float("nan"))
    assert reads_last_token("reward model", net, ROWS, LIMIT).status == "error"


@pytest.mark.parametrize(
    ("accuracy", "longer", "status"), [(0.7, 0.6, "ok"), (0.6, 0.6, "error"), (0.6, 0.3, "error"), (0.71, 0.3, "ok")]
)
def test_a_reward_model_has_to_beat_both_longer_wins_and_shorter_wins(
    accuracy: float, longer: float, status: str
) -> None:
    finding = beats_length(accuracy, longer, 100)
    assert finding.status == status
    assert ("longer answers" if longer > 0.5 else "shorter answers") in finding.remedy or status == "ok"
