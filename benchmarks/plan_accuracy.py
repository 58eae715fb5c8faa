"""Compares the plans of PPO runs with what the runs really take on a CPU.

    python benchmarks/plan_accuracy.py [--write] [word …]

The script runs the cases that have all the words in their name, such as `llama full fsdp2`. Without words it runs all
cases, which takes an hour on two cores. With `--write`, it puts their rows into the table of docs/planner.md. Sharded
cases have two processes, of which the first is measured.
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
Case = tuple[str, ...]
"""Family, what is trained, and strategy."""
CASES: list[Case] = list(product(FAMILIES, NETS, STRATEGIES))
PHASES = ("rollout", "update")
_SECONDS = 900
"""A case that takes longer hangs."""
_HEAD = f"""\
| family | trained | strategy | rollout, MiB | planned | | update, MiB | planned | |
{9 * "| --- "}|
"""
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


def measure(family: Path, nets: str, strategy: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Runs one case, in the environment of this process or in another, and returns its record."""
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
            env=environment,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
        if done.returncode:
            raise SystemExit(f"{family.name} {nets} {strategy} failed:\n{done.stderr[-3000:]}")
        return json.loads((folder / "memory.json").read_text())


def row(case: Case, record: dict[str, Any]) -> str:
    """The row of a case in the table."""
    cells = []
    for phase, difference in zip(PHASES, differences(record), strict=True):
        measured, planned = record["measured"][phase], record["planned"][phase]
        cells.append(f"{measured / 2**20:,.0f} | {planned / 2**20:,.0f} | {difference:+.1%}")
    family, nets, strategy = case
    return f"| {family} | {nets} | `{strategy}` | {' | '.join(cells)} |"


def differences(record: dict[str, Any]) -> list[float]:
    """The relative differences of the planned phases from the measured ones."""
    return [record["planned"][phase] / record["measured"][phase] - 1 for phase in PHASES]


def with_rows(page: str, rows: dict[Case, str]) -> str:
    """A page whose table has these rows, and its earlier rows of the other cases."""
    old = {found.groups(): found[0] for found in re.finditer(r"^\| (\w+) \| (\w+) \| `(\w+)` \|.*$", page, re.M)}
    known = {**old, **rows}
    table = "\n".join(known[case] for case in CASES if case in known)
    sizes = sorted(float(size) for size in re.findall(r"\| [+-]([\d.]+)%", table))
    text = f"{_HEAD}{table}\n\nLargest difference {sizes[-1]}%, median {median(sizes):.1f}%.\n"
    parts = re.split(r"(?<=<!-- accuracy -->\n)|(?=<!-- /accuracy -->)", page)
    return parts[0] + text + parts[2]


def main() -> None:
    """Prints a row for each case, and writes the rows if that was asked for."""
    words = sys.argv[1:]
    writes = "--write" in words
    cases = [case for case in CASES if all(word in case for word in words if word != "--write")]
    errors = []
    with tempfile.TemporaryDirectory() as place:
        for case in cases:
            family, nets, strategy = case
            folder = Path(place) / family
            if not folder.exists():
                write_nets(family, folder)
            record = measure(folder, nets, strategy)
            errors += map(abs, differences(record))
            print(row(case, record), record["at"], flush=True)
            if writes:
                page = with_rows(PAGE.read_text(encoding="utf-8"), {case: row(case, record)})
                PAGE.write_text(page, encoding="utf-8")
    print(f"Largest difference {max(errors):.1%}, median {median(errors):.1%}.")


if __name__ == "__main__":
    main()
