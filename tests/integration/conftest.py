"""Small real stages with the demo's data, the tiny model and a plain Lightning trainer."""

import copy
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from typing import Any

import lightning.pytorch as pl
import pytest
from support import tiny_source

from lightning_rlhf import (
    DPOModule,
    ModelSource,
    PPOModule,
    PreferenceDataModule,
    PromptDataModule,
    Renderer,
    RewardModule,
    Sampling,
    SFTDataModule,
    SFTModule,
    load_causal_lm,
    load_scalar_model,
)

SOURCE = tiny_source()
Parts = tuple[pl.LightningModule, pl.LightningDataModule]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The first rows of the demo's files."""
    folder = tmp_path_factory.mktemp("data")
    for name, count in {"demonstrations": 80, "preferences": 80, "prompts": 40}.items():
        lines = (files("lightning_rlhf.demo") / f"{name}.jsonl").read_text().splitlines()[:count]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return {path.stem: str(path) for path in folder.iterdir()}


@pytest.fixture(scope="session")
def source() -> ModelSource:
    return SOURCE


@pytest.fixture(scope="session")
def renderer() -> Renderer:
    return Renderer(SOURCE.load_tokenizer())


@pytest.fixture
def parts(data: dict[str, str], renderer: Renderer) -> Callable[..., Parts]:
    """Builds the module and the data module of a stage, always with the same weights."""

    def build(stage: str, **settings: Any) -> Parts:
        pl.seed_everything(1, verbose=False)
        if stage == "sft":
            sft = SFTModule(partial(load_causal_lm, SOURCE), renderer, lr=1e-3, **settings)
            return sft, SFTDataModule(data["demonstrations"], renderer, minibatch_size=8, val_fraction=0.1)
        if stage == "reward":
            reward = RewardModule(partial(load_scalar_model, SOURCE, "normal"), renderer, lr=1e-3, **settings)
            return reward, PreferenceDataModule(data["preferences"], renderer, minibatch_size=8, val_fraction=0.1)
        if stage == "dpo":
            nets = {"actor": partial(load_causal_lm, SOURCE), "reference": partial(load_causal_lm, SOURCE)}
            dpo = DPOModule(
                **(nets | {"renderer": renderer, "lr": 1e-3, "evaluation": Sampling(max_new_tokens=8)} | settings)
            )
            return dpo, PreferenceDataModule(
                data["preferences"], renderer, minibatch_size=8, val_fraction=0.1, answer_prompts=True
            )
        actor = load_causal_lm(SOURCE)
        settings.setdefault("reward", load_scalar_model(SOURCE, "normal"))
        settings.setdefault("critic", load_scalar_model(SOURCE, "zero"))
        settings.setdefault("sampling", Sampling(max_new_tokens=8))
        settings.setdefault("renderer", renderer)
        sizes = {"rollout_batch_size": 16, "minibatch_size": 8, "ppo_epochs": 2, "rollout_micro_batch_size": 8}
        defaults = {"actor": actor, "reference": copy.deepcopy(actor), "lr": 1e-3, "critic_lr": 1e-3}
        ppo = PPOModule(**(sizes | defaults | settings))
        return ppo, PromptDataModule(data["prompts"], renderer, val_fraction=0.2)

    return build
