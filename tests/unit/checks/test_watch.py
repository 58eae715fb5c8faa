"""The watch of gradients, on two layers of which one may be cut off."""

from typing import Any

import pytest
import torch
from torch import nn

from lightning_rlhf.checks.finding import Finding
from lightning_rlhf.checks.two_steps import Watch


def seen(module: nn.Module, *losses: Any) -> Finding:
    """Returns the finding after one step for each loss."""
    watch = Watch()
    for loss in losses:
        module.zero_grad()
        if loss is not None:
            loss(module(torch.ones(1, 2))).backward()
        watch.on_before_optimizer_step(None, module, None)  # type: ignore[arg-type]
    return watch.gradients(module)


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))


def test_all_trained_tensors_get_a_gradient() -> None:
    module = layers()
    module[0].bias.requires_grad_(False)
    assert seen(module, torch.sum) == Finding("gradients", "ok", "3 of 3 trained tensors get a gradient")


def test_what_gets_its_first_gradient_in_the_second_step_is_fine() -> None:
    # This is like an adapter whose second matrix starts at 0.
    module = layers()
    nn.init.zeros_(module[1].weight)
    assert seen(module, torch.sum).found == "2 of 4 trained tensors get a gradient; these do not: 0.weight, 0.bias"

    watch = Watch()
    for _ in range(2):
        module.zero_grad()
        module(torch.ones(1, 2)).sum().backward()
        watch.on_before_optimizer_step(None, module, None)  # type: ignore[arg-type]
        with torch.no_grad():
            module[1].weight.sub_(module[1].weight.grad)
    assert watch.gradients(module).status == "ok"


def test_what_is_cut_off_is_named() -> None:
    class Cut(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self[1](self[0](x).detach())

    finding = seen(Cut(nn.Linear(2, 2), nn.Linear(2, 1)), torch.sum)
    assert finding.status == "error"
    assert finding.found == "2 of 4 trained tensors get a gradient; these do not: 0.weight, 0.bias"


def test_nothing_to_learn_is_a_warning_and_so_is_a_strategy_that_hides_gradients() -> None:
    assert seen(layers(), lambda output: output.sum() * 0).found == "all gradients are 0"
    assert seen(layers(), lambda output: output.sum() * 0).status == "warning"
    assert seen(layers(), None).found == "this strategy does not show gradients"
    assert seen(layers(), None).status == "warning"


@pytest.mark.parametrize(("moved", "status"), [(0.249, "warning"), (0.25, "ok"), (None, "warning")])
def test_weights_of_which_few_move_are_a_warning(moved: float | None, status: str) -> None:
    watch = Watch()
    watch.moved = moved
    found = watch.movement_of_weights()
    assert (found.check, found.status) == ("weights move", status)
    assert ("trainer.precision=bf16-mixed" in found.remedy) == (moved == 0.249)
