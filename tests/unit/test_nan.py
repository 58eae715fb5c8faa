"""A setting that is NaN is refused by name. No comparison holds for NaN, so a check of what is wrong lets it pass."""

from functools import partial
from math import nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_rlhf import DPOModule, RewardModule, SFTModule
from lightning_rlhf.assembly.target_checks import check_targets
from lightning_rlhf.callbacks.adaptive_kl import AdaptiveKL
from lightning_rlhf.callbacks.alarms import ALARMS
from lightning_rlhf.callbacks.ema import EMA
from lightning_rlhf.callbacks.health import Health
from lightning_rlhf.callbacks.progress import PhaseProgress
from lightning_rlhf.callbacks.run_checkpoint import RunCheckpoint
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.lora import Lora
from lightning_rlhf.modules.importance import Importance
from lightning_rlhf.modules.optim import Optim
from lightning_rlhf.modules.ppo_loss import PPOLoss
from lightning_rlhf.modules.ppo_values import check_values
from lightning_rlhf.rollout.credit import Credit
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.rollout.shaping import RewardShaping

ANY: Any = None
PPO = {
    **dict.fromkeys(["rollout_batch_size", "rollout_micro_batch_size", "minibatch_size", "ppo_epochs"], 1),
    **dict.fromkeys(["lr", "critic_lr", "kl_coef", "ptx_coef", "refresh_reference_every"], 0),
    "clip_gradients_by": "all",
    "max_tokens_per_micro_batch": None,
}


def ppo(**changes: float) -> None:
    check_values(SimpleNamespace(**{**PPO, **changes}))  # type: ignore[arg-type]


def dual_clip(dual_clip: float) -> None:
    PPOLoss(policy="dual_clip", options={"dual_clip": dual_clip})


TAKES = [
    *((ppo, name) for name in ("lr", "critic_lr", "kl_coef", "ptx_coef")),
    *((partial(module, ANY, ANY), "lr") for module in (SFTModule, RewardModule)),
    *(
        (partial(DPOModule, actor=ANY, renderer=ANY, reference_free=True), name)
        for name in ("lr", "beta", "label_smoothing")
    ),
    *((Optim, name) for name in ("weight_decay", "warmup")),
    *((PPOLoss, name) for name in ("clip_range", "clip_range_high", "clip_range_value", "vf_coef", "ent_coef")),
    (dual_clip, "dual_clip"),
    (Importance, "ceiling"),
    *((Credit, name) for name in ("gamma", "gae_lambda")),
    *((RewardShaping, name) for name in ("clip", "missing_eos_score", "missing_eos_penalty", "length_penalty")),
    (RewardShaping, "overlong_penalty"),
    *((partial(Sampling, max_new_tokens=1), name) for name in ("temperature", "top_p", "min_p", "repetition_penalty")),
    *((Lora, name) for name in ("alpha", "dropout")),
    *((AdaptiveKL, name) for name in ("target", "horizon")),
    (partial(EMA, "sft"), "decay"),
    (PhaseProgress, "every_seconds"),
    (partial(RunCheckpoint, Path()), "every_minutes"),
]


@pytest.mark.parametrize(("takes", "name"), TAKES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_setting_that_is_nan_is_refused_by_name(takes: Any, name: str) -> None:
    with pytest.raises(UserError, match=rf"\b{name}=nan\b"):
        takes(**{name: nan})


def test_a_threshold_of_an_alarm_that_is_nan_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"\.threshold=nan must be a number"):
        Health({next(iter(ALARMS)): {"threshold": nan}})


def test_a_setting_of_a_configuration_that_is_nan_is_refused_by_its_path() -> None:
    node = {"_target_": "lightning_rlhf.modules.optim.Optim", "weight_decay": nan}
    with pytest.raises(UserError, match=r"^optim\.weight_decay=nan: expected a number$"):
        check_targets({"optim": node})
