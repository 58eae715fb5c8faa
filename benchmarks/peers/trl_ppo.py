"""PPO iterations of TRL: python benchmarks/peers/trl_ppo.py WORK.json RESULT.json, in the environment `trl_ppo`.

TRL steps the optimizer once for each minibatch only if the whole rollout is one batch of its loader, whose size divides
into `num_mini_batches`. Its temperature is 0.7 by default, with which a model with random weights ends its responses
much sooner. The reward depends on the length alone, as it does in the benchmark of this package.
"""

import gc
import time
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer
from work import Work, read, write

from lightning_rlhf.benchmark.meter import Meter, allocated, tensor_bytes


class LengthReward(nn.Module):
    """A reward model without weights: the number of tokens of a row. TRL calls its parts by these names."""

    base_model_prefix = "backbone"

    def __init__(self) -> None:
        """Makes the parts."""
        super().__init__()
        self.score = nn.Identity()

    def backbone(self, attention_mask: torch.Tensor, **_: Any) -> Any:
        """Counts the tokens up to each token, (B, T, 1)."""
        return SimpleNamespace(hidden_states=[attention_mask.cumsum(1).float()[..., None] / attention_mask.shape[1]])


class Stopwatch(TrainerCallback):
    """Measures iterations, and the memory of the last one."""

    def __init__(self, work: Work) -> None:
        """Takes the numbers of iterations."""
        self.work, self.seconds, self.meter = work, list[float](), Meter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Starts the clock."""
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ends an iteration."""
        if len(self.seconds) == self.work.warmup + self.work.repeats:
            self.meter.__exit__(None, None, None)
            return
        self.seconds.append(time.perf_counter() - self.start)
        if len(self.seconds) == self.work.warmup + self.work.repeats:
            gc.collect()
            self.other = allocated() - tensor_bytes()
            self.meter.__enter__()
        self.start = time.perf_counter()


def main() -> None:
    """Trains."""
    work = read()
    prompts, pad = work.ids(), work.vocabulary

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        # The id of padding is beyond the vocabulary, so that no model draws it; TRL replaces it before it calls models.
        return {"input_ids": torch.tensor([[pad] * (width - len(r["input_ids"])) + r["input_ids"] for r in rows])}

    args = PPOConfig(
        output_dir="trl_ppo",
        per_device_train_batch_size=work.rows,
        gradient_accumulation_steps=1,
        num_mini_batches=work.rows // work.batch,
        num_ppo_epochs=work.ppo_epochs,
        local_rollout_forward_batch_size=64,
        total_episodes=work.rows * (work.warmup + work.repeats + 1),
        response_length=work.most,
        temperature=1.0,
        stop_token_id=None if work.mean is None else work.eos,
        learning_rate=1e-6,
        num_sample_generations=0,
        report_to="none",
        save_strategy="no",
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        disable_tqdm=True,
        seed=work.seed,
    )
    policy, reference = work.causal_lm(), work.causal_lm()
    policy.generation_config.pad_token_id = work.eos
    clock = Stopwatch(work)
    trainer = PPOTrainer(
        args,
        SimpleNamespace(pad_token_id=pad, eos_token_id=work.eos),
        model=policy,
        ref_model=reference,
        reward_model=LengthReward(),
        value_model=work.scalar_model(),
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
        eval_dataset=Dataset.from_dict({"input_ids": prompts}),
        data_collator=collate,
        callbacks=[clock],
    )
    trainer.train()
    seconds = median(clock.seconds[work.warmup :])
    write(1 / seconds, seconds=seconds, peak_tensor_bytes=clock.meter.most - clock.other)


if __name__ == "__main__":
    main()
