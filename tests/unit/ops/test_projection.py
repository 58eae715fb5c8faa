"""Log-probs and entropies straight from hidden states, against all logits at once."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_rlhf.ops import projection
from lightning_rlhf.ops.projection import LogitForm, _Sum, projected_stats

N, D, V = 23, 6, 11
FORMS = {
    "plain": LogitForm(),
    "warm": LogitForm(temperature=0.7),
    "scaled": LogitForm(temperature=1.3, scale=0.25),
    "capped": LogitForm(temperature=0.7, softcap=2.0),
    "scaled and capped": LogitForm(temperature=2.0, scale=3.0, softcap=5.0),
}
Parts = dict[str, Tensor]


@pytest.fixture
def parts() -> Parts:
    torch.manual_seed(0)
    shapes = {"hidden": (N, D), "weight": (V, D), "bias": (V,)}
    return {name: (0.5 * torch.randn(shape)).requires_grad_() for name, shape in shapes.items()}


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(V, (N,), generator=torch.manual_seed(1))


def plainly(parts: Parts, tokens: Tensor, form: LogitForm) -> Tensor:
    """Computes log-probs and entropies (2, N) from all logits, with each formula as it is in the literature."""
    logits = (parts["hidden"] @ parts["weight"].T + parts["bias"]) * form.scale
    if form.softcap is not None:
        logits = form.softcap * torch.tanh(logits / form.softcap)
    logprobs = (logits / form.temperature).log_softmax(-1)
    return torch.stack([logprobs.gather(1, tokens[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)])


@pytest.mark.parametrize("rows", [N, 5])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_numbers_and_gradients_are_those_of_all_logits_at_once(
    monkeypatch: pytest.MonkeyPatch, parts: Parts, tokens: Tensor, form: LogitForm, rows: int
) -> None:
    # 23 positions are one chunk, or four of 5 and one of 3.
    monkeypatch.setattr(projection, "_CHUNK", 1)
    monkeypatch.setattr(projection, "_ROWS", rows)
    found = projected_stats(*parts.values(), tokens, form, True)
    expected = plainly(parts, tokens, form)
    assert_close(found, expected)
    weights = torch.randn(2, N)
    gradients = (torch.autograd.grad((x * weights).sum(), tuple(parts.values())) for x in (found, expected))
    for mine, wanted in zip(*gradients, strict=True):
        assert_close(mine, wanted, rtol=1e-5, atol=1e-5)
        assert mine.abs().sum() > 0


def test_without_entropies_the_log_probs_and_their_gradients_are_the_same(parts: Parts, tokens: Tensor) -> None:
    alone = projected_stats(*parts.values(), tokens, LogitForm(), False)
    both = projected_stats(*parts.values(), tokens, LogitForm(), True)
    assert alone.shape == (1, N)
    assert_close(alone[0], both[0], rtol=0, atol=0)
    gradients = (torch.autograd.grad(x[0].sum(), tuple(parts.values())) for x in (alone, both))
    for mine, wanted in zip(*gradients, strict=True):
        assert_close(mine, wanted)


def test_a_frozen_head_without_a_bias_passes_the_gradient_on(parts: Parts, tokens: Tensor) -> None:
    weight = parts["weight"].detach()
    projected_stats(parts["hidden"], weight, None, tokens, LogitForm(), False).sum().backward()
    expected = parts["hidden"].detach().requires_grad_()
    (expected @ weight.T).log_softmax(-1).gather(1, tokens[:, None]).sum().backward()
    assert_close(parts["hidden"].grad, expected.grad)


def test_no_positions_have_no_numbers_and_gradients_of_zero(parts: Parts) -> None:
    found = projected_stats(
        *(parts["hidden"][:0], parts["weight"], parts["bias"]), torch.tensor([]).long(), LogitForm(), False
    )
    found.sum().backward()
    assert found.shape == (1, 0)
    assert parts["weight"].grad.count_nonzero() == 0


@pytest.mark.parametrize("rows", [N, 5])
def test_numbers_and_gradients_of_sixteen_bits_have_full_precision_outside(
    monkeypatch: pytest.MonkeyPatch, parts: Parts, tokens: Tensor, rows: int
) -> None:
    monkeypatch.setattr(projection, "_CHUNK", 1)
    monkeypatch.setattr(projection, "_ROWS", rows)
    with torch.autocast("cpu", torch.bfloat16):
        found = projected_stats(*parts.values(), tokens, LogitForm(), True)
    assert found.dtype == torch.float32
    rounded = {name: part.detach().bfloat16().float().requires_grad_() for name, part in parts.items()}
    expected = plainly(rounded, tokens, LogitForm())
    # Products have three digits.
    assert_close(found, expected, rtol=0.02, atol=0.05)
    mine, wanted = (
        torch.autograd.grad(x[0].sum(), owner["weight"])[0] for x, owner in ((found, parts), (expected, rounded))
    )
    assert mine.dtype == torch.float32
    assert_close(mine, wanted, rtol=0.05, atol=0.1)


def test_the_products_of_many_chunks_are_summed_in_full_precision() -> None:
    total = _Sum(torch.zeros(1, 1, dtype=torch.bfloat16))
    one = torch.ones(1, 1, dtype=torch.bfloat16)
    for _ in range(1000):
        total.add(one, one)
    # A sum in bfloat16 would stay at 256, because 257 is no number of 8 bits. 1000 = 125 * 8 is one.
    assert total.total.dtype == torch.bfloat16
    assert total.total.item() == 1000


def test_entropies_under_autocast_are_those_of_the_logits_in_full_precision(parts: Parts, tokens: Tensor) -> None:
    # Logits near -60 in bf16 are multiples of 1/4. An entropy from products in bf16 would be off by 0.1 and more.
    low = {name: (part.detach() - 60 * (name == "bias")).bfloat16().requires_grad_() for name, part in parts.items()}
    with torch.autocast("cpu", torch.bfloat16):
        found = projected_stats(*low.values(), tokens, LogitForm(), True)
    products = torch.nn.functional.linear(*low.values())
    logprobs = products.float().log_softmax(-1)
    expected = -(logprobs.exp() * logprobs).sum(-1)
    assert_close(found[1], expected, rtol=1e-3, atol=1e-3)
    mine, wanted = (torch.autograd.grad(x.square().sum(), low["bias"])[0] for x in (found[1], expected))
    # The gradients of a bias in bf16 have three digits.
    assert_close(mine, wanted, rtol=0.01, atol=0.01)


def test_a_weight_of_a_class_of_its_own_is_told_of_the_operation(parts: Parts, tokens: Tensor) -> None:
    told: list[Callable] = []

    class Own(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            told.append(function)
            with torch._C.DisableTorchFunctionSubclass():
                return function(*args, **(kwargs or {}))

    own = parts["weight"].detach().as_subclass(Own)
    found = projected_stats(parts["hidden"], own, parts["bias"], tokens, LogitForm(), False)
    assert projected_stats in told
    assert_close(torch.Tensor(found), projected_stats(*parts.values(), tokens, LogitForm(), False))
