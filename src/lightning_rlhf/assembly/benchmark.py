"""Runs a benchmark: iterations of PPO that are built as `train` builds them, with random prompts and a stopwatch."""

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from lightning_rlhf.assembly.benchmark_nets import dtype_of, job_of_benchmark, set_nets
from lightning_rlhf.assembly.benchmark_settings import BenchmarkSettings
from lightning_rlhf.assembly.benchmark_table import print_benchmark
from lightning_rlhf.assembly.interrupted import interruptions
from lightning_rlhf.assembly.library_messages import silence_libraries
from lightning_rlhf.assembly.renderer import load_renderer
from lightning_rlhf.assembly.stage import prepare, read_data
from lightning_rlhf.benchmark.flops import PHASES, counted
from lightning_rlhf.benchmark.gemm import gemm_flops
from lightning_rlhf.benchmark.memory import PeakMemory, peak_rss_bytes
from lightning_rlhf.benchmark.rates import mean_lengths, phases, rates
from lightning_rlhf.benchmark.stopwatch import Stopwatch
from lightning_rlhf.callbacks.run_facts import run_facts
from lightning_rlhf.callbacks.run_record import versions
from lightning_rlhf.distributed.collectives import gather_objects
from lightning_rlhf.distributed.phases import release
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.saving import write_json


def benchmark(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Measures iterations of PPO.

    Args:
        config: The configuration of `train` with the settings that conf/benchmark.yaml adds. It is not changed.
        folder: Folder in which `result.json` is written.

    Returns:
        The content of `result.json`; see docs/benchmark.md.

    Raises:
        UserError: If the user can correct the error.
    """
    silence_libraries()
    start, settings = time.perf_counter(), BenchmarkSettings.of(config)
    source: ModelSource = instantiate(config.model, _convert_="all")
    renderer = load_renderer(config)
    eos = renderer.stop_ids[0]
    # Nothing ends a response of fixed length.
    renderer.stop_ids = (eos,) if settings.length_distribution == "geometric" else ()
    stage = prepare(_configured(config, settings, source), "ppo", folder, renderer)
    module: Any = stage.module
    # The stage has chosen the attention of its models.
    set_nets(module, settings, instantiate(stage.config.model, _convert_="all"), eos)
    memory = PeakMemory(settings.iterations - 1)
    clock = Stopwatch(memory.enter)
    module.engine.build = clock.timed(module.engine.build)
    stage.trainer.callbacks += [memory, clock]  # type: ignore[attr-defined]
    read_data(stage)
    pl.seed_everything(config.seed, verbose=False)
    with interruptions():
        stage.trainer.fit(module, stage.data)
    if (done := len(clock.iterations)) < settings.iterations:
        raise UserError(
            f"repeats={settings.repeats}: the run ended after {done} of {settings.iterations} iterations: leave out "
            "the setting that ends it"
        )
    # Each process has its own peaks. The seconds are those of the first process, which waits for all others.
    tensors, processes = zip(*gather_objects([(memory.peaks, peak_rss_bytes())]), strict=True)
    of_phases = {phase: max(peaks[phase] for peaks in tensors) for phase in PHASES if all(tensors)}
    peaks = {"peak_rss_bytes": max(processes)}
    if of_phases:
        peaks["peak_tensor_bytes"] = max(of_phases.values())
    peak_flops = gemm_flops(module.device, dtype_of(module, stage.trainer.precision))
    measured, run = clock.iterations[settings.warmup : -1], counted(job_of_benchmark(config, settings, source))
    result = {
        "stage": "benchmark",
        "status": "finished",
        "metrics": rates(measured, run, stage.trainer.world_size, peak_flops) | peaks,
        "phases": phases(measured, run, stage.trainer.world_size, peak_flops, of_phases),
        "iterations": [iteration.seconds for iteration in measured],
        "mean_lengths": mean_lengths(measured),
        "seconds": round(time.perf_counter() - start, 3),
        "versions": versions(),
        "seed": config.seed,
        "threads": torch.get_num_threads(),
        **run_facts(stage.trainer, module),
    }
    if stage.trainer.is_global_zero:
        write_json(folder / "result.json", result)
        print_benchmark(result, folder)
    release(stage.trainer)
    return result


def _configured(config: DictConfig, settings: BenchmarkSettings, source: ModelSource) -> DictConfig:
    """The configuration of the run: without data, callbacks and evaluation, which are no part of an iteration."""
    config = config.copy()
    with open_dict(config):
        config.callbacks, config.ppo.callbacks, config.data.gold = {}, {}, None
        config.ppo.trainer.max_epochs = config.ppo.trainer.check_val_every_n_epoch = settings.iterations
        config.ppo.trainer.num_sanity_val_steps = config.ppo.trainer.limit_val_batches = 0
        config.ppo.data = {
            "_target_": "lightning_rlhf.benchmark.prompts.RandomPromptDataModule",
            "num_prompts": config.rollout_batch_size // config.ppo.module.credit.num_samples_per_prompt,
            "shortest": settings.min_prompt_length,
            "longest": settings.prompt_length,
            "vocabulary": source.hf_config().vocab_size,
            "seed": config.seed,
        }
    return config
