"""SFT or reward training of this package: python benchmarks/update.py WORK.json RESULT.json sft|reward [override …].

benchmarks/peers/compare.py writes WORK.json, which benchmarks/peers/work.py describes. The overrides are those of
`train`. A pass over the rows is an epoch, whose seconds are measured; the rows replace those of the data module.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent / "peers"))

from hydra import compose, initialize_config_module
from lightning.pytorch import Callback
from omegaconf import OmegaConf, open_dict
from work import Passes, Work, read, write

from lightning_rlhf.assembly.library_messages import silence_libraries
from lightning_rlhf.assembly.renderer import load_renderer
from lightning_rlhf.assembly.stage import prepare
from lightning_rlhf.data.kinds import conversation_rows, stretches
from lightning_rlhf.data.pairs import PAIRS
from lightning_rlhf.data.render import Rendered
from lightning_rlhf.data.rows import Rows


class Epochs(Passes, Callback):
    """Measures the epochs of a trainer of Lightning."""

    on_train_epoch_start, on_train_epoch_end = Passes.begin, Passes.end


def demonstrations(work: Work) -> Rows[Any]:
    """Rows whose tokens are all learnt, as those of the peers are."""
    return conversation_rows([Rendered(ids, [False] + [True] * (len(ids) - 1)) for ids in work.ids()])


def preferences(work: Work) -> Rows[Any]:
    """Pairs of answers to the same prompt."""
    columns = []
    for prompt, chosen, rejected in work.pairs():
        answers = {"chosen": chosen, "rejected": rejected}
        row: dict[str, Any] = {"length": max(len(chosen), len(rejected)), "prompt_length": prompt, "margin": 0.0}
        for name, ids in answers.items():
            row |= {name: ids, f"{name}_learnt": stretches([place >= prompt for place in range(len(ids))])}
        columns.append(row | {"prompt": "[]", "columns": "{}"})
    return Rows(PAIRS.table(columns, work.vocabulary), PAIRS.make)


def main() -> None:
    """Trains."""
    silence_libraries()
    work, name = read(), sys.argv[3]
    block = {"sft": "sft", "reward": "reward_model"}[name]
    epochs = work.warmup + work.repeats
    settings = [
        *("experiment=none", "model=gpt2/bench_tiny", "logger=none", f"stage={name}"),
        *(f"{block}.data.minibatch_size={work.batch}", f"{block}.trainer.max_epochs={epochs}"),
        *(f"+{block}.trainer.limit_val_batches=0", f"{block}.trainer.check_val_every_n_epoch={epochs}"),
        f"{block}.data.max_length={work.longest}",
    ]
    clock = Epochs()
    with tempfile.TemporaryDirectory() as folder:
        with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
            config = compose("train", [f"run_dir={folder}", *settings, *sys.argv[4:]])
        with open_dict(config):
            OmegaConf.update(config, "model.config", work.config, merge=False)
            config.callbacks, config[block].callbacks = {}, {}
        stage = prepare(config, name, Path(folder), load_renderer(config))
        data: Any = stage.data
        data.train_rows = demonstrations(work) if name == "sft" else preferences(work)
        data.val_rows, data.prompts = data.train_rows, ()
        stage.trainer.callbacks.append(clock)  # type: ignore[attr-defined]
        stage.trainer.fit(stage.module, data)
    seconds = clock.median(work)
    done = sum(map(len, work.ids())) if name == "sft" else work.rows
    write(done / seconds, seconds=seconds)


if __name__ == "__main__":
    main()
