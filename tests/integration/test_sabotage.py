"""Five classic mistakes in real runs of tiny stages: each run stops before the first update, and names the mistake.

tests/mutations.toml contains the same mistakes as changes of the code, with the unit tests that detect them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support import trainer
from torch import Tensor

from lightning_rlhf.callbacks import StartChecks
from lightning_rlhf.data.render import Rendered, Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.roles import SeparateRoles
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.rollout import credit, sampled


class Sabotage(NamedTuple):
    """A mistake that is put into a run."""

    owner: Any
    """The object that has the function."""
    name: str
    """Name of the function."""
    wrong: Callable
    """Replaces the function, and gets the right function as its first argument."""
    stages: tuple[str, ...]
    """Stages that the mistake spoils."""
    checks: set[str]
    """Checks that find the mistake."""


def other_sign(right: Callable, *given: Tensor, kl_coef: float, **scored: Tensor) -> Tensor:
    return right(*given, kl_coef=-kl_coef, **scored)


def no_temperature(right: Callable, roles: Any, sequences: Any, *, temperature: float, **settings: Any) -> Any:
    return right(roles, sequences, temperature=1.0, **settings)


def without_the_stop_token(right: Callable, lengths: Tensor, width: int) -> Tensor:
    return right(lengths - (lengths < width).long(), width)


def rolled_by_one(right: Callable, lengths: Tensor, width: int) -> Tensor:
    return right(lengths, width).roll(1, dims=1)


def mean_over_padding(right: Callable, net: ScalarModel, ids: Tensor, mask: Tensor) -> Tensor:
    return net(ids, mask).mean(dim=1)


def mean_over_tokens(right: Callable, net: ScalarModel, ids: Tensor, mask: Tensor) -> Tensor:
    return (net(ids, mask) * mask).sum(dim=1) / mask.sum(dim=1)


def eos_not_learnt(right: Callable, *args: Any, **kwargs: Any) -> Rendered:
    ids, learnt = right(*args, **kwargs)
    end = len(learnt) - 1 - learnt[::-1].index(True)
    return Rendered(ids, [*learnt[:end], False, *learnt[end + 1 :]])


def eos_not_there(right: Callable, *args: Any, **kwargs: Any) -> Rendered:
    ids, learnt = right(*args, **kwargs)
    end = len(learnt) - 1 - learnt[::-1].index(True)
    return Rendered(ids[:end], learnt[:end])


# If only the actor has another temperature, it also differs from its reference.
TEMPERATURE = {"sampler and scorer", "KL at the start"}
LAST_TOKEN = {"reward model: last token"}
EOS = {"EOS in the labels"}
SABOTAGES = {
    "the sign of the KL is swapped": Sabotage(credit, "shape_rewards", other_sign, ("ppo",), {"KL penalty"}),
    "the scorer has no temperature": Sabotage(SeparateRoles, "actor_stats", no_temperature, ("ppo",), TEMPERATURE),
    "the mask ends before the stop token": Sabotage(
        sampled, "response_mask", without_the_stop_token, ("ppo",), {"response mask"}
    ),
    "the mask is rolled by one": Sabotage(sampled, "response_mask", rolled_by_one, ("ppo",), {"response mask"}),
    "the score is a mean over padding": Sabotage(
        ScalarModel, "scores", mean_over_padding, ("reward", "ppo"), LAST_TOKEN
    ),
    "the score is a mean over tokens": Sabotage(ScalarModel, "scores", mean_over_tokens, ("reward", "ppo"), LAST_TOKEN),
    "EOS is not learnt": Sabotage(Renderer, "labelled", eos_not_learnt, ("sft", "reward", "dpo"), EOS),
    "EOS is left out": Sabotage(Renderer, "labelled", eos_not_there, ("sft", "reward", "dpo"), EOS),
}


@pytest.mark.parametrize(
    ("mistake", "stage"), [(mistake, stage) for mistake in SABOTAGES for stage in SABOTAGES[mistake].stages]
)
def test_a_sabotaged_run_is_stopped_before_the_first_update(
    mistake: str, stage: str, parts: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage = SABOTAGES[mistake]
    right = getattr(sabotage.owner, sabotage.name)
    monkeypatch.setattr(sabotage.owner, sabotage.name, lambda *args, **kwargs: sabotage.wrong(right, *args, **kwargs))
    fitted = trainer(tmp_path, StartChecks())
    with pytest.raises(UserError, match="stopped before the first update") as caught:
        fitted.fit(*parts(stage))
    assert {line.partition(": ")[0] for line in str(caught.value).splitlines()[1:]} == {
        check.partition(": ")[0] for check in sabotage.checks
    }
    assert all(f"\n{check}: " in str(caught.value) for check in sabotage.checks)
    assert fitted.global_step == 0
