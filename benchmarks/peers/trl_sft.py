"""TRL's SFT: python benchmarks/peers/trl_sft.py WORK.json RESULT.json [packed], in the environment `trl`."""

import sys

from datasets import Dataset
from trl import SFTConfig, SFTTrainer
from trl_training import Epochs, settings, tokenizer
from work import read, write


def main() -> None:
    """Trains."""
    work, clock = read(), Epochs()
    rows = work.ids()
    trainer = SFTTrainer(
        work.causal_lm(),
        SFTConfig(output_dir="trl_sft", packing="packed" in sys.argv, **settings(work)),
        train_dataset=Dataset.from_dict({"input_ids": rows}),
        processing_class=tokenizer(),
        callbacks=[clock],
    )
    trainer.train()
    seconds = clock.median(work)
    write(sum(map(len, rows)) / seconds, seconds=seconds)


if __name__ == "__main__":
    main()
