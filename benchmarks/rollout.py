"""Rollouts of this package's engine alone: python benchmarks/rollout.py WORK.json RESULT.json [override …].

benchmarks/peers/compare.py writes WORK.json, which benchmarks/peers/work.py describes. The overrides are those of
`train`, such as `rollout=padded`.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "peers"))

import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from transformers_generate import measured
from work import read, write

from lightning_rlhf.models.fast_layers import speed_up
from lightning_rlhf.rollout.engines.engine import Request
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey


def main() -> None:
    """Samples."""
    work = read()
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("train", [f"rollout.micro_batch_size={work.batch}", *sys.argv[3:]])
    net = work.causal_lm().eval()
    speed_up(net)  # Models that are built for training have it.
    engine = instantiate(config.rollout.engine)(net, torch.device("cpu"))
    prompts, stops = work.ids(), () if work.mean is None else (work.eos,)
    sampling, rollouts = Sampling(max_new_tokens=work.most), iter(range(10**6))

    @torch.no_grad()
    def sample() -> int:
        version = next(rollouts)
        engine.resume()
        engine.update_weights(iter(net.state_dict().items()), version)
        requests = [Request(ids, RandomKey(work.seed, (SAMPLING, version), row)) for row, ids in enumerate(prompts)]
        completions = engine.generate(requests, sampling, stop_ids=stops)
        engine.release()
        return sum(len(one.ids) for one in completions)

    write(**measured(work, sample))


if __name__ == "__main__":
    main()
