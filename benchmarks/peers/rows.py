"""The rows of benchmarks/RESULTS.md: the work of each, the programs that do it, and the ratio that is expected.

Each program is a command line after the interpreter of its environment; `ours` runs in the environment of this package.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parent
BENCHMARKS = PEERS.parent


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program that does the work."""

    name: str
    environment: str
    """Name of the environment."""
    command: tuple[str, ...]
    """The script and what follows the files of the work and the result."""
    bar: float = 1.0
    """How many times faster this package has to be."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table."""

    what: str
    model: str
    """Option of `model`."""
    work: dict[str, Any]
    """Fields of `work.Work` except the model."""
    ours: tuple[str, ...]
    peers: tuple[Program, ...]
    unit: str
    """Unit of the rates."""


def _trl_ppo(bar: float) -> Program:
    return Program(name="TRL 1.11 PPO", environment="trl_ppo", command=("trl_ppo.py",), bar=bar)


def _generate(bar: float) -> Program:
    command = ("transformers_generate.py",)
    return Program(name="transformers generate", environment="transformers", command=command, bar=bar)


_CONTINUOUS = Program(
    name="transformers generate_batch",
    environment="transformers",
    command=("transformers_generate.py", "continuous"),
    bar=2.0,
)
_VLLM = Program(name="vLLM on the CPU", environment="vllm", command=("vllm_generate.py",))
_OURS_PPO = ("peers/ours_ppo.py",)
_OURS_ROLLOUT = ("rollout.py",)
_DENSE = {"shortest": 32, "longest": 32, "most": 32}


def _dense_rollout(model: str, rows: int) -> Row:
    return Row(
        what=f"rollout alone, {model}, 32+32 tokens, batch {rows}",
        model=model,
        work={**_DENSE, "rows": rows, "batch": rows},
        ours=_OURS_ROLLOUT,
        peers=(_generate(1.7), _VLLM),
        unit="tokens/s",
    )


ROWS = {
    "ppo_tiny": Row(
        what="PPO iteration, gpt2/bench_tiny, 32+32 tokens, batch 32, minibatch 8, 4 epochs",
        model="gpt2/bench_tiny",
        work={**_DENSE, "rows": 32, "batch": 8, "ppo_epochs": 4},
        ours=_OURS_PPO,
        peers=(_trl_ppo(1.6),),
        unit="iterations/s",
    ),
    "ppo_small": Row(
        what="PPO iteration, gpt2/small, 32+32 tokens, batch 8, minibatch 4, 2 epochs",
        model="gpt2/small",
        work={**_DENSE, "rows": 8, "batch": 4, "ppo_epochs": 2},
        ours=_OURS_PPO,
        peers=(_trl_ppo(1.4),),
        unit="iterations/s",
    ),
    "ppo_geometric": Row(
        what="PPO iteration, gpt2/bench_tiny, prompts of 8–64 tokens, geometric responses of mean 32 and at most 128, "
        "batch 32, minibatch 8, 4 epochs",
        model="gpt2/bench_tiny",
        work={"shortest": 8, "longest": 64, "most": 128, "mean": 32, "rows": 32, "batch": 8, "ppo_epochs": 4},
        ours=_OURS_PPO,
        peers=(_trl_ppo(2.5),),
        unit="iterations/s",
    ),
    "rollout_small_8": _dense_rollout("gpt2/small", 8),
    "rollout_small_32": _dense_rollout("gpt2/small", 32),
    "rollout_smollm2_8": _dense_rollout("smollm2/135m", 8),
    "rollout_smollm2_32": _dense_rollout("smollm2/135m", 32),
    "rollout_geometric": Row(
        what="rollout alone, gpt2/bench_tiny, 64 prompts of 8–64 tokens, geometric responses of mean 32 and at most "
        "128, at most 32 at a time",
        model="gpt2/bench_tiny",
        work={"shortest": 8, "longest": 64, "most": 128, "mean": 32, "rows": 64, "batch": 32},
        ours=_OURS_ROLLOUT,
        peers=(_generate(4.0), _CONTINUOUS, _VLLM),
        unit="tokens/s",
    ),
    "sft": Row(
        what="SFT, gpt2/bench_tiny, rows of 16–256 tokens, batch 16",
        model="gpt2/bench_tiny",
        work={"shortest": 16, "longest": 256, "rows": 96, "batch": 16},
        ours=("update.py", "sft"),
        peers=(
            Program(name="TRL 1.16 SFT, padded", environment="trl", command=("trl_sft.py",), bar=2.5),
            Program(name="TRL 1.16 SFT, packed", environment="trl", command=("trl_sft.py", "packed"), bar=2.5),
        ),
        unit="tokens/s",
    ),
    "reward": Row(
        what="reward training, gpt2/bench_tiny, pairs of 32–256 tokens, batch 8",
        model="gpt2/bench_tiny",
        work={"shortest": 32, "longest": 256, "rows": 48, "batch": 8},
        ours=("update.py", "reward"),
        peers=(Program(name="TRL 1.16 reward", environment="trl", command=("trl_reward.py",), bar=2.0),),
        unit="pairs/s",
    ),
}
