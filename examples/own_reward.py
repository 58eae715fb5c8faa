"""PPO with a reward function of your own, which reads a column of the data.

python examples/own_reward.py
"""

import lightning as L

from lightning_rlhf import (
    ModelSource,
    PPOModule,
    PromptDataModule,
    Renderer,
    Sampling,
    TextReward,
    load_causal_lm,
    load_scalar_model,
)
from lightning_rlhf.callbacks import RolloutMetrics

# Random weights, so that the example downloads nothing; ModelSource(pretrained="gpt2") takes a model of the hub.
CONFIG = {"model_type": "gpt2", "vocab_size": 814, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 128}
SOURCE = ModelSource(config=CONFIG, tokenizer="pkg://lightning_rlhf.demo/tokenizer")
ROWS = [
    {"prompt": f"{verb} the letter {letter}.", "letter": letter}
    for verb in ("Write", "Say", "Show me", "Find")
    for letter in "eo"
]


def share_of_letter(prompts: list[str], responses: list[str], letter: list[str]) -> list[float]:
    """Scores a response by the share of the letter that the column `letter` of its prompt names."""
    return [text.count(wanted) / max(len(text), 1) for text, wanted in zip(responses, letter, strict=True)]


def main(iterations: int = 30) -> float:
    """Trains the actor, and returns the mean score of the last iteration."""
    L.seed_everything(0)
    renderer = Renderer(SOURCE.load_tokenizer())
    module = PPOModule(
        actor=load_causal_lm(SOURCE),
        reference=load_causal_lm(SOURCE),
        critic=load_scalar_model(SOURCE, head="zero"),
        reward=TextReward(share_of_letter),
        renderer=renderer,
        sampling=Sampling(max_new_tokens=8),
        lr=1e-3,
        critic_lr=1e-3,
        rollout_batch_size=64,
        minibatch_size=32,
        kl_coef=0.001,
    )
    trainer = L.Trainer(
        max_epochs=iterations,  # an epoch is a PPO iteration
        callbacks=[RolloutMetrics()],
        logger=False,
        enable_checkpointing=False,
        limit_val_batches=0,
    )
    trainer.fit(module, PromptDataModule(ROWS * 8, renderer, val_fraction=0.2))
    return float(trainer.callback_metrics["rollout/score_mean"])


if __name__ == "__main__":
    print(f"mean score {main():.3f}")
