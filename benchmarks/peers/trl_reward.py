"""TRL's reward trainer: python benchmarks/peers/trl_reward.py WORK.json RESULT.json, in the environment `trl`."""

from datasets import Dataset
from trl import RewardConfig, RewardTrainer
from trl_training import Epochs, settings, tokenizer
from work import read, write


def main() -> None:
    """Trains."""
    work, clock = read(), Epochs()
    pairs = work.pairs()
    rows = {"chosen_ids": [chosen for _, chosen, _ in pairs], "rejected_ids": [rejected for _, _, rejected in pairs]}
    trainer = RewardTrainer(
        work.scalar_model(),
        RewardConfig(output_dir="trl_reward", **settings(work)),
        train_dataset=Dataset.from_dict(rows),
        processing_class=tokenizer(),
        callbacks=[clock],
    )
    trainer.train()
    seconds = clock.median(work)
    write(len(pairs) / seconds, seconds=seconds)


if __name__ == "__main__":
    main()
