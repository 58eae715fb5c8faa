"""Measures one row of memory_targets.py.

    python benchmarks/memory_row.py FOLDER MODELS plain|ours LIMIT ITERATIONS LENGTH [override …]

MODELS is a folder that memory_nets.py wrote. LIMIT bounds the address space of the process in bytes, from before torch
is imported; 0 sets no limit. The largest number of bytes of tensors, in rollout and in update, is written to
FOLDER/row.json.
"""

import resource
import sys

if __name__ == "__main__" and int(sys.argv[4]):
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[4]),) * 2)

import gc
import json
import os
import re
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
# MKL would keep the buffers of its products, on processors by Intel. They are no tensors.
os.environ["MKL_DISABLE_FAST_MM"] = "1"

import torch  # imported before plan_run, which would set one thread


def plain(nets: Path, iterations: int, length: int) -> dict[str, int]:
    """The largest number of bytes in each phase of PPO written by hand."""
    from plain_ppo import PlainPPO
    from transformers import AutoTokenizer

    from lightning_rlhf.benchmark.meter import Meter, allocated, tensor_bytes

    prompt = json.loads((nets / "prompts.jsonl").read_text().splitlines()[0])["prompt"]
    ids = AutoTokenizer.from_pretrained(nets / "actor")(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    torch.manual_seed(0)
    ppo, meter, peaks = PlainPPO(nets), Meter(), {"rollout": 0, "update": 0}
    gc.collect()
    other = allocated() - tensor_bytes()

    def note(phase: str) -> None:
        peaks[phase] = max(peaks[phase], meter.most - other)
        meter.most = 0

    with meter:
        for _ in range(iterations):
            ppo.iteration(ids, length, lambda: note("rollout"))
            note("update")
    return peaks


def settings(nets: Path, iterations: int, length: int) -> list[str]:
    """The overrides of all rows: each iteration has one response of `length` tokens."""
    return [
        f"model.pretrained={nets / 'actor'}",
        f"reward.path={nets / 'reward' / 'model'}",
        "reward.template=raw",
        f"rollout.sampling.max_new_tokens={length}",
        f"ppo.trainer.max_epochs={iterations}",
        f"ppo.trainer.check_val_every_n_epoch={iterations}",
        "data.max_prompt_length=512",
        "data.val_fraction=0.5",
        "ppo.module.rollout_batch_size=1",
        "rollout.micro_batch_size=1",
        "ppo.module.minibatch_size=1",
    ]


def ours(folder: Path, nets: Path, iterations: int, length: int, overrides: list[str]) -> dict[str, int]:
    """The largest number of bytes in each phase of this framework's PPO."""
    from plan_run import configured, trained

    from lightning_rlhf.assembly.library_messages import silence_libraries

    silence_libraries()
    (folder / "prompts.jsonl").write_bytes((nets / "prompts.jsonl").read_bytes())
    return trained(folder, configured(folder, [*settings(nets, iterations, length), *overrides]))[1]


def main() -> None:
    """Runs the row and writes what it took."""
    folder, nets, iterations, length = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[5]), int(sys.argv[6])
    folder.mkdir(parents=True, exist_ok=True)
    if sys.argv[3] == "plain":
        peaks = plain(nets, iterations, length)
    else:
        peaks = ours(folder, nets, iterations, length, sys.argv[7:])
    status = Path("/proc/self/status").read_text()
    sizes = {name: int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) * 1024 for name in ("VmPeak", "VmHWM")}  # type: ignore[index]
    (folder / "row.json").write_text(json.dumps({**peaks, **sizes}))


if __name__ == "__main__":
    main()
