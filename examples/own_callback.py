"""A callback of your own, which sees each rollout: it prints the best response, and ends training at a score.

    python examples/own_callback.py

On the command line, `+callbacks.best_response._target_=own_callback.BestResponse` adds the same callback, if this
folder is the current one.
"""

import lightning as L

from lightning_rlhf import (
    Credit,
    ModelSource,
    PPOModule,
    PromptDataModule,
    Renderer,
    RLHFCallback,
    Sampling,
    TextReward,
    load_causal_lm,
)
from lightning_rlhf.experience import Rollout

# Random weights, so that the example downloads nothing; ModelSource(pretrained="gpt2") takes a model of the hub.
CONFIG = {"model_type": "gpt2", "vocab_size": 814, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 128}
SOURCE = ModelSource(config=CONFIG, tokenizer="pkg://lightning_rlhf.demo/tokenizer")


class BestResponse(RLHFCallback):
    """Prints the best response of each iteration, and stops when the mean score reaches a target."""

    def __init__(self, target: float = 0.4) -> None:
        """Stores the target."""
        self.target = target
        self.best: list[str] = []

    def on_rollout_end(self, trainer: L.Trainer, module: L.LightningModule, rollout: Rollout) -> None:
        """Called on every rank with the samples of all ranks, before the update."""
        self.best.append(rollout.responses[int(rollout.scores.argmax())])
        mean = float(rollout.scores.mean())
        if trainer.is_global_zero:
            print(f"iteration {rollout.iteration}: mean score {mean:.3f}, best response {self.best[-1]!r}")
        # Every rank sees the same scores, so all ranks stop together, after the update of this iteration.
        trainer.should_stop = mean >= self.target


def share_of_e(prompts: list[str], responses: list[str]) -> list[float]:
    """Scores a response by its share of the letter e."""
    return [text.count("e") / max(len(text), 1) for text in responses]


def main(target: float = 0.4) -> BestResponse:
    """Trains the actor until the mean score reaches the target, and returns the callback."""
    L.seed_everything(0)
    renderer, callback = Renderer(SOURCE.load_tokenizer()), BestResponse(target)
    module = PPOModule(
        actor=load_causal_lm(SOURCE),
        reference=load_causal_lm(SOURCE),
        reward=TextReward(share_of_e),
        renderer=renderer,
        sampling=Sampling(max_new_tokens=8),
        credit=Credit(advantage="grpo", num_samples_per_prompt=8),
        lr=1e-3,
        rollout_batch_size=64,
        minibatch_size=32,
        kl_coef=0.001,
    )
    trainer = L.Trainer(
        max_epochs=60, callbacks=[callback], logger=False, enable_checkpointing=False, limit_val_batches=0
    )
    rows = [{"prompt": f"Say something about {thing}."} for thing in ("doors", "kettles", "lamps", "chairs")]
    trainer.fit(module, PromptDataModule(rows * 8, renderer, val_fraction=0.2))
    return callback


if __name__ == "__main__":
    main()
