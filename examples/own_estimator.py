"""An advantage estimator of your own, with a setting of its own.

    python examples/own_estimator.py

On the command line, `ppo.module.credit.advantage=own_estimator:quantile` and
`+ppo.module.credit.options.level=0.75` choose the same estimator, if this folder is the current one.
"""

import lightning as L
import torch

from lightning_rlhf import (
    Credit,
    ModelSource,
    PPOModule,
    PromptDataModule,
    Renderer,
    Sampling,
    TextReward,
    load_causal_lm,
)
from lightning_rlhf.callbacks import RolloutMetrics
from lightning_rlhf.ops.advantages import Advantages, Trajectories, estimator

# Random weights, so that the example downloads nothing; ModelSource(pretrained="gpt2") takes a model of the hub.
CONFIG = {"model_type": "gpt2", "vocab_size": 814, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 128}
SOURCE = ModelSource(config=CONFIG, tokenizer="pkg://lightning_rlhf.demo/tokenizer")


@estimator("quantile", group=True)
def quantile(trajectories: Trajectories, *, level: float = 0.5) -> Advantages:
    """Measures the distance of a response to a quantile of its group; `level` is the setting."""
    if not 0 <= level <= 1:
        raise ValueError(f"level={level}: must lie in [0, 1]")
    totals = torch.where(trajectories.mask, trajectories.rewards, 0).sum(1).view(-1, trajectories.group_size)
    distance = (totals - totals.quantile(level, dim=1, keepdim=True)).flatten()
    return Advantages(torch.where(trajectories.mask, distance[:, None], 0))


def share_of_e(prompts: list[str], responses: list[str]) -> list[float]:
    """Scores a response by its share of the letter e."""
    return [text.count("e") / max(len(text), 1) for text in responses]


def main(iterations: int = 30, level: float = 0.75) -> float:
    """Trains the actor, and returns the mean score of the last iteration."""
    L.seed_everything(0)
    renderer = Renderer(SOURCE.load_tokenizer())
    module = PPOModule(
        actor=load_causal_lm(SOURCE),
        reference=load_causal_lm(SOURCE),
        reward=TextReward(share_of_e),
        renderer=renderer,
        sampling=Sampling(max_new_tokens=8),
        credit=Credit(advantage="quantile", options={"level": level}, num_samples_per_prompt=8),
        lr=1e-3,
        rollout_batch_size=64,
        minibatch_size=32,
        kl_coef=0.001,
    )
    trainer = L.Trainer(
        max_epochs=iterations,
        callbacks=[RolloutMetrics()],
        logger=False,
        enable_checkpointing=False,
        limit_val_batches=0,
    )
    rows = [{"prompt": f"Say something about {thing}."} for thing in ("doors", "kettles", "lamps", "chairs")]
    trainer.fit(module, PromptDataModule(rows * 8, renderer, val_fraction=0.2))
    return float(trainer.callback_metrics["rollout/score_mean"])


if __name__ == "__main__":
    print(f"mean score {main():.3f}")
