"""What TRL's SFT and reward trainers share here: settings, and a clock for each pass over the rows."""

from typing import Any

from transformers import AutoTokenizer, TrainerCallback
from work import TOKENIZER, Passes, Work


class Epochs(Passes, TrainerCallback):
    """Measures the epochs of a trainer of transformers."""

    on_epoch_begin, on_epoch_end = Passes.begin, Passes.end


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
