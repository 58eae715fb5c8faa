"""PPO iterations of this package: python benchmarks/peers/ours_ppo.py WORK.json RESULT.json MODEL [override …].

It composes the configuration of `lightning-rlhf benchmark`, and runs what the command runs.
"""

import sys
import tempfile
from pathlib import Path

from hydra import compose, initialize_config_module
from work import read, write

from lightning_rlhf.assembly.benchmark import benchmark


def main() -> None:
    """Trains."""
    work, folder = read(), tempfile.mkdtemp()
    settings = [
        *(f"model={sys.argv[3]}", f"run_dir={folder}", f"seed={work.seed}"),
        *(f"rollout_batch_size={work.rows}", f"minibatch_size={work.batch}", f"ppo_epochs={work.ppo_epochs}"),
        *(f"prompt_length={work.longest}", f"min_prompt_length={work.shortest}", f"response_length={work.most}"),
        *(f"warmup={work.warmup}", f"repeats={work.repeats}"),
    ]
    if work.mean is not None:
        settings += ["length_distribution=geometric", f"mean_response_length={work.mean}"]
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("benchmark", [*settings, *sys.argv[4:]])
    metrics = benchmark(config, Path(folder))["metrics"]
    seconds = metrics["iteration_seconds"]
    write(1 / seconds, seconds=seconds, peak_tensor_bytes=metrics["peak_tensor_bytes"])


if __name__ == "__main__":
    main()
