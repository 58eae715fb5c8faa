"""Compares the plans of PPO runs with what the runs really take on a CPU, and writes the table of docs/planner.md.

    python benchmarks/plan_accuracy.py [word …]

The script runs the cases that have all the words in their name, such as `llama full fsdp2`. Without words it runs all
cases, which takes an hour on two cores. Sharded cases have two processes, of which the first is measured.
"""

import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from transformers import AutoTokenizer

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.models.adapters.files import save_adapter
from lightning_rlhf.models.adapters.lora import ADAPTER, Lora
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.scalar import load_scalar_model
from lightning_rlhf.models.source import ModelSource

FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", "n_positions": 256, "n_embd": 512, "n_layer": 6, "n_head": 8},
    "llama": {
        "model_type": "llama",
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 256,
    },
    "opt": {
        "model_type": "opt",
        "hidden_size": 512,
        "word_embed_proj_dim": 512,
        "ffn_dim": 2048,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "max_position_embeddings": 256,
    },
    "bloom": {"model_type": "bloom", "hidden_size": 512, "n_layer": 6, "n_head": 8},
}
NETS = {"full": [], "lora": ["adapter=lora"], "shared": ["adapter=lora", "roles=shared"]}
# The buckets are as small as the models: DeepSpeed's default buckets suit large models, and would hide small ones.
_TWO = ["trainer.devices=2"]
STRATEGIES = {
    "single": [],
    "deepspeed_zero2": [*_TWO, "+trainer.strategy.reduce_bucket_size=2000000"],
    "deepspeed_zero3": [*_TWO, "+trainer.strategy.reduce_bucket_size=2000000"],
    "fsdp2": _TWO,
}
PAGE = Path(__file__).parents[1] / "docs" / "planner.md"
PROMPT_LENGTH = 64


def write_nets(family: str, folder: Path) -> None:
    """Writes an actor, a reward model, and prompts of two lengths, of which the longer one is the longest allowed."""
    source = ModelSource(config=FAMILIES[family] | {"vocab_size": 814}, tokenizer="pkg://lightning_rlhf.demo/tokenizer")
    tokenizer = source.load_tokenizer()
    for name, net in (("actor", load_causal_lm(source)), ("reward", load_scalar_model(source, "normal").net)):
        net.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    _write_adapter(folder)
    renderer = Renderer(AutoTokenizer.from_pretrained(folder / "actor"), "raw", stop_ids=(2,))
    with (folder / "prompts.jsonl").open("w", encoding="utf-8") as file:
        for number in range(256):
            length = PROMPT_LENGTH if number % 2 else PROMPT_LENGTH - 16
            file.write(json.dumps({"prompt": _prompt(random.Random(number), renderer, length)}) + "\n")


def _write_adapter(folder: Path) -> None:
    """Writes a reward model that is an adapter of the actor, in the form in which a run leaves it."""
    base = folder / "actor"
    net: Any = load_scalar_model(ModelSource(pretrained=str(base), adapter=Lora()), "normal").net
    net.config.score_bias = 0.0
    shutil.copytree(folder / "reward", folder / "reward_adapter" / "model")
    save_adapter(net, ADAPTER, folder / "reward_adapter" / "adapter", str(base), scalar=True)


def _prompt(numbers: random.Random, renderer: Renderer, length: int) -> str:
    text = ""
    while True:
        longer = text + numbers.choice("abcdefghijk")
        if len(renderer.prompt([{"role": "user", "content": longer}])) > length:
            return text
        text = longer


def measure(family: Path, nets: str, strategy: str) -> dict[str, Any]:
    """Runs one case and returns its record."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "prompts.jsonl").write_bytes((family / "prompts.jsonl").read_bytes())
        settings = [
            f"model.pretrained={family / 'actor'}",
            f"model.tokenizer={family / 'actor'}",
            f"reward.path={family / 'reward_adapter' / 'model' if nets == 'shared' else family / 'reward'}",
            f"strategy={strategy}",
        ]
        script = Path(__file__).with_name("plan_run.py")
        done = subprocess.run(
            [sys.executable, script, folder, *settings, *NETS[nets], *STRATEGIES[strategy]],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{family.name} {nets} {strategy} failed:\n{done.stderr[-3000:]}")
        return json.loads((folder / "memory.json").read_text())


def main() -> None:
    """Prints a row for each case, and writes the table if all cases were run."""
    words = sys.argv[1:]
    cases = [case for case in product(FAMILIES, NETS, STRATEGIES) if all(word in case for word in words)]
    rows, errors = [], []
    with tempfile.TemporaryDirectory() as place:
        for family, nets, strategy in cases:
            folder = Path(place) / family
            if not folder.exists():
                write_nets(family, folder)
            record = measure(folder, nets, strategy)
            cells = []
            for phase in ("rollout", "update"):
                measured, planned = record["measured"][phase], record["planned"][phase]
                errors.append(planned / measured - 1)
                cells += [f"{measured / 2**20:,.0f}", f"{planned / 2**20:,.0f}", f"{errors[-1]:+.1%}"]
            rows.append(f"| {family} | {nets} | `{strategy}` | {' | '.join(cells)} |")
            print(rows[-1], record["at"], flush=True)
    sizes = sorted(map(abs, errors))
    summary = f"Largest difference {sizes[-1]:.1%}, median {median(sizes):.1%}."
    print(summary)
    if not words:
        head = (
            "| family | trained | strategy | rollout, MiB | planned | | update, MiB | planned | |\n"
            + "| --- " * 9
            + "|"
        )
        table = f"<!-- accuracy -->\n{head}\n" + "\n".join(rows) + f"\n\n{summary}\n<!-- /accuracy -->"
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(re.sub(r"<!-- accuracy -->.*<!-- /accuracy -->", lambda _: table, text, flags=re.S), "utf-8")


if __name__ == "__main__":
    main()
