"""The work that this package and its peers do: a model with random weights, random rows, and where the result goes.

Each program is a process `python SCRIPT WORK.json RESULT.json`, which this file helps to read and to write. It needs
torch, transformers and NumPy alone, since the environments of the peers contain little else.
"""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from lightning_rlhf.benchmark.ending import end_with_probability
from lightning_rlhf.benchmark.lengths import prompt_lengths, random_ids

TOKENIZER = Path(__file__).parents[2] / "src" / "lightning_rlhf" / "demo" / "tokenizer"
"""No text is read or written, but trainers want a tokenizer."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of a row of the table. Lengths are in tokens."""

    config: dict[str, Any]
    """The architecture: `model_type` and the settings of its configuration class."""
    rows: int
    """Number of prompts, of rows or of pairs."""
    batch: int
    """Number of rows of an optimizer step, or of a batch that is sampled."""
    shortest: int
    longest: int
    """Bounds of the uniform lengths of prompts, rows or answers."""
    most: int = 0
    """Length limit of responses."""
    mean: int | None = None
    """Mean of geometric lengths of responses; None lets all have the limit."""
    ppo_epochs: int = 1
    eos: int = 0
    """Id of the token that ends a response."""
    seed: int = 1
    threads: int = 2
    warmup: int = 1
    repeats: int = 3
    """Numbers of iterations or passes over the rows that are not measured, and that are."""

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return int(self.hf_config().vocab_size)

    def hf_config(self, **settings: Any) -> Any:
        """The Hugging Face configuration, without dropout."""
        config = AutoConfig.for_model(**{**self.config, **settings, "bos_token_id": None, "pad_token_id": None})
        config.eos_token_id = None
        for name in vars(config):
            if name.endswith(("dropout", "pdrop", "dropout_prob", "layerdrop")):
                setattr(config, name, 0.0)
        return config

    def causal_lm(self) -> Any:
        """A causal language model, which ends responses with the probability that the mean asks for."""
        torch.manual_seed(self.seed)
        net = AutoModelForCausalLM.from_config(self.hf_config(), dtype=torch.float32)
        if self.mean is not None:
            end_with_probability(net, self.eos, 1 / self.mean, self.seed)
        return net

    def scalar_model(self) -> Any:
        """A model that gives one number to a row."""
        torch.manual_seed(self.seed)
        config = self.hf_config(num_labels=1)
        config.pad_token_id = self.eos
        return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)

    def ids(self) -> list[list[int]]:
        """Prompts, or rows to imitate."""
        lengths = prompt_lengths(self.rows, self.shortest, self.longest, self.seed)
        return random_ids(lengths, self.vocabulary, (self.eos,), self.seed)

    def pairs(self) -> list[tuple[int, list[int], list[int]]]:
        """Pairs of rows that begin with the same prompt: its length, the chosen and the rejected row.

        The prompt is half as long as the shorter row.
        """
        lengths = prompt_lengths(2 * self.rows, self.shortest, self.longest, self.seed)
        rows = random_ids(lengths, self.vocabulary, (self.eos,), self.seed)
        found = []
        for chosen, rejected in zip(rows[::2], rows[1::2], strict=True):
            prompt = min(len(chosen), len(rejected)) // 2
            found.append((prompt, chosen, chosen[:prompt] + rejected[prompt:]))
        return found


class Passes:
    """Measures the seconds of each pass over the rows. Its methods serve as hooks of any trainer."""

    def __init__(self) -> None:
        """Starts without a pass."""
        self.seconds: list[float] = []

    def begin(self, *_: Any, **__: Any) -> None:
        """Starts the clock."""
        self.start = time.perf_counter()

    def end(self, *_: Any, **__: Any) -> None:
        """Ends a pass."""
        self.seconds.append(time.perf_counter() - self.start)

    def median(self, work: Work) -> float:
        """The median seconds of the passes that count."""
        return median(self.seconds[work.warmup :])


def read() -> Work:
    """Reads the work that the command line names, and sets the number of threads."""
    work = Work(**json.loads(Path(sys.argv[1]).read_text()))
    torch.set_num_threads(work.threads)
    return work


def write(rate: float, **numbers: float) -> None:
    """Writes the result.

    Args:
        rate: What is compared; more is better.
        **numbers: What else was measured.
    """
    Path(sys.argv[2]).write_text(json.dumps({"rate": rate, "torch": torch.__version__, **numbers}))
