"""Supervised fine-tuning on rows that are in memory: a list of dicts, or a `datasets.Dataset`.

python examples/own_data.py
"""

import lightning as L
from datasets import Dataset

from lightning_rlhf import ModelSource, Renderer, SFTDataModule, SFTModule, load_causal_lm

# Random weights, so that the example downloads nothing; ModelSource(pretrained="gpt2") takes a model of the hub.
CONFIG = {"model_type": "gpt2", "vocab_size": 814, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 128}
SOURCE = ModelSource(config=CONFIG, tokenizer="pkg://lightning_rlhf.demo/tokenizer")
COLORS = ["red", "green", "blue", "black", "white"]
ROWS = [{"prompt": f"Paint the door {color}.", "completion": f"The door is {color} now."} for color in COLORS]


def main() -> float:
    """Trains on the rows, and returns the loss at the end of training."""
    L.seed_everything(0)
    renderer = Renderer(SOURCE.load_tokenizer())
    module = SFTModule(load_causal_lm(SOURCE), renderer, lr=1e-2)
    # A few rows are both training and held-out data here. A list of dicts or a path does as well.
    data = SFTDataModule(Dataset.from_list(ROWS * 8), renderer, val_path=ROWS, minibatch_size=8, max_length=64)
    trainer = L.Trainer(max_epochs=6, logger=False, enable_checkpointing=False)
    trainer.fit(module, data)
    return float(trainer.callback_metrics["val/loss"])


if __name__ == "__main__":
    print(f"loss {main():.3f} nats a token")
