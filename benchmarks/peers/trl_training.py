"""What TRL's SFT and reward trainers share here: settings, and a clock for each pass over the rows."""

import time
from statistics import median
from typing import Any

from transformers import AutoTokenizer, TrainerCallback
from work import TOKENIZER, Work


class Passes(TrainerCallback):
    """Measures the seconds of each pass over the rows."""

    def __init__(self) -> None:
        """Starts without a pass."""
        self.seconds: list[float] = []

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Starts the clock."""
        self.start = time.perf_counter()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ends a pass."""
        self.seconds.append(time.perf_counter() - self.start)


def settings(work: Work) -> dict[str, Any]:
    """The settings that do not depend on the trainer."""
    return {
        "per_device_train_batch_size": work.batch,
        "num_train_epochs": work.warmup + work.repeats,
        "learning_rate": 1e-5,
        "max_length": work.longest,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": work.seed,
    }


def tokenizer() -> Any:
    """The tokenizer that the trainers want."""
    return AutoTokenizer.from_pretrained(TOKENIZER)


def median_pass(clock: Passes, work: Work) -> float:
    """The median seconds of the passes that count."""
    return median(clock.seconds[work.warmup :])
