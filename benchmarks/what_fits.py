"""Plans LLaMA and a model of GPT-3's size on several machines, and writes "What fits where" of docs/planner.md.

python benchmarks/what_fits.py
"""

import re
from dataclasses import replace
from pathlib import Path

from hydra import compose, initialize_config_module

from lightning_rlhf.assembly.plan_job import job_of
from lightning_rlhf.planner.fitting import Limits, largest_micro_batch
from lightning_rlhf.planner.plan import Plan
from lightning_rlhf.sizes import parse_bytes

MODELS = ["llama/7b", "llama/13b", "llama/33b", "llama/65b", "gpt2/175b"]
MACHINES = {"1 × 24 GB": (1, "24GB"), "1 × 80 GB": (1, "80GB"), "8 × 80 GB": (8, "80GB")}
STRATEGIES = {1: ["single", "deepspeed_zero3_offload"], 8: ["fsdp2", "deepspeed_zero3_offload"]}
TRAINED = {
    "all weights": [],
    "adapters": ["adapter=lora"],
    "adapters of one model": ["adapter=lora", "roles=shared"],
    "the same in 4 bits": ["adapter=lora", "roles=shared", "model.quantization=nf4"],
}
# Strategies that divide no weights: quantized weights cannot be divided.
WHOLE = ("single",)
SETTINGS = [
    "stage=ppo",
    "experiment=none",
    "data=files",
    "data.path=none",
    "trainer=gpu",
    "model.dtype=bfloat16",
    "model.gradient_checkpointing=true",
    "data.max_prompt_length=512",
    "rollout.sampling.max_new_tokens=512",
    "rollout.micro_batch_size=8",
    "ppo.module.minibatch_size=64",
    "ppo.trainer.accumulate_grad_batches=8",
]
PAGE = Path(__file__).parents[1] / "docs" / "planner.md"


def cell(model: str, devices: int, memory: str, strategy: str, trained: list[str]) -> str:
    """The largest micro-batch that fits, or the least memory that is needed; and the host memory that is needed."""
    if "model.quantization=nf4" in trained and strategy not in WHOLE:
        return "–"
    settings = [*SETTINGS, f"model={model}", f"strategy={strategy}", f"trainer.devices={devices}", *trained]
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("plan", settings)
    plan = Plan(job_of(config, "ppo"), float(config.fragmentation))
    host = f"; host {gib(plan.host_peak)}" if plan.job.layout.offloads else ""
    found = largest_micro_batch(plan, Limits(parse_bytes(memory, "device_memory")))
    if found:
        return f"{found.rows}{host}"
    job = plan.job.with_rows(1)
    needs = f"needs {gib(Plan(job, plan.fragmentation).peak.total)}"
    if job.layout.divides_weights:
        apart = replace(job, layout=replace(job.layout, gather_for_generation=False))
        needs += f", {gib(Plan(apart, plan.fragmentation).peak.total)} ungathered"
    return f"{needs}{host}"


def gib(size: int) -> str:
    """A size in GiB, as the table shows it."""
    return f"{size / 2**30:,.0f}"


def main() -> None:
    """Writes the table."""
    columns = [(name, size, s) for name, size in MACHINES.items() for s in STRATEGIES[size[0]]]
    rows = ["| model | trained | " + " | ".join(f"{name}, `{s}`" for name, _, s in columns) + " |"]
    rows.append("| --- " * (len(columns) + 2) + "|")
    for model in MODELS:
        for name, trained in TRAINED.items():
            cells = [cell(model, *size, strategy, trained) for _, size, strategy in columns]
            rows.append(f"| `{model}` | {name} | {' | '.join(cells)} |")
            print(rows[-1], flush=True)
    text = PAGE.read_text(encoding="utf-8")
    table = "<!-- fits -->\n" + "\n".join(rows) + "\n<!-- /fits -->"
    PAGE.write_text(re.sub(r"<!-- fits -->.*<!-- /fits -->", lambda _: table, text, flags=re.S), encoding="utf-8")


if __name__ == "__main__":
    main()
