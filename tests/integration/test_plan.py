"""`lightning-rlhf plan` as a user runs it, and its prediction compared with real runs."""

import json
import re
import subprocess
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from support import TINY, command, environ, keep, result_of, run_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plan_accuracy() -> Any:
    """The script that compares plans with runs."""
    specification = spec_from_file_location("plan_accuracy", ROOT / "benchmarks" / "plan_accuracy.py")
    assert specification is not None
    assert specification.loader is not None
    script = module_from_spec(specification)
    specification.loader.exec_module(script)
    return script


def plan(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Runs `lightning-rlhf plan` in a folder."""
    return command(folder, *overrides, name="plan")


@pytest.mark.slow
def test_the_plan_of_a_large_model_comes_without_its_weights(tmp_path: Path) -> None:
    model = ["model=llama/65b", "strategy=deepspeed_zero3_offload", "trainer.devices=8", "trainer.num_nodes=4"]
    lengths = ["prompt_length=512", "response_length=512"]
    done = plan(tmp_path, *model, *lengths, "trainer=gpu", "stage=ppo", "experiment=none", "device_memory=80GB")
    assert done.returncode == 0, done.stderr
    result = result_of(run_folder(tmp_path))
    assert result["fits"] is False
    assert result["peak_bytes_per_device"] > 80e9
    assert result["plans"]["ppo"]["remedy"]
    assert "planned with prompts of 512 tokens (prompt_length), responses of 512 (response_length)" in done.stdout
    # This machine has no GPU, so its own memory says nothing.
    assert "assumed: each machine has " in done.stdout
    assert result["plans"]["ppo"]["bound_by"] == {"rollout": "memory", "scoring": "compute", "update": "compute"}
    assert "312 TFLOP/s x 0.4 (device_flops, mfu) and 2 TB/s x 0.5 (device_bandwidth, mbu)" in done.stdout
    assert set(result["plans"]["ppo"]["phases"]) == {"load", "rollout", "scoring", "update", "export"}


def test_the_verdict_names_the_memory_that_is_short_and_that_which_suffices(tmp_path: Path) -> None:
    limits = ["device_memory=8MB", "host_memory=1TB"]
    done = plan(tmp_path, "model=tiny", "stage=sft", "strategy=fsdp2", "trainer=gpu", "trainer.devices=2", *limits)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert " does not fit in device_memory=8MB (7.6 MiB)" in lines
    assert " fits in host_memory=1TB (931.3 GiB)" in lines
    assert not [line for line in lines if "A100" in line]
    # Nobody knows the speed of a CPU beforehand.
    on_cpu = plan(tmp_path, "model=tiny", "stage=sft", "trainer=cpu", "hydra.run.dir=cpu")
    assert "are those of an A100 where you have not set them; a CPU is far slower" in on_cpu.stdout


def test_the_line_without_a_gpu_says_that_its_devices_are_cpus(tmp_path: Path) -> None:
    model = ["model=llama/65b", "strategy=deepspeed_zero3_offload", "trainer.devices=8", "trainer.num_nodes=4"]
    done = plan(tmp_path, *model, "stage=ppo", "data=demo")
    assert done.returncode == 0, done.stderr
    assert "add trainer=gpu" in done.stdout
    # Two models have weights, gradients and averages, and two have weights alone: 16 and 4 bytes a number, 32 devices.
    least = (2 * 16 + 2 * 4) * 65.2e9 / 32
    assert result_of(run_folder(tmp_path))["peak_bytes_per_device"] > 0.8 * least


def test_a_plan_without_data_demands_the_lengths(tmp_path: Path) -> None:
    done = plan(tmp_path, "model=llama/13b", "stage=ppo", "experiment=none")
    assert done.returncode == 2
    assert done.stderr.startswith("error: model=llama/13b: prompt_length and response_length must be given")


def test_a_plan_refuses_settings_that_a_run_would_refuse(tmp_path: Path) -> None:
    done = plan(tmp_path, "model=tiny", "stage=sft", "+sft.module.lrr=3", "++sft.trainer.accumulate=2")
    assert done.returncode == 2
    assert "sft.module.lrr: lightning_rlhf.modules.SFTModule has no such setting; did you mean lr?" in done.stderr
    assert "sft.trainer.accumulate: lightning.pytorch.Trainer has no such setting; did you mean" in done.stderr


def test_a_plan_for_this_machine_says_whether_its_memory_is_enough(tmp_path: Path) -> None:
    done = plan(tmp_path, "model=tiny", "stage=sft")
    assert done.returncode == 0, done.stderr
    assert "planned with rows of 128 tokens (at most; sft.data.max_length)" in done.stdout
    assert "fits in host_memory=" in done.stdout
    assert "host_memory was found: the " in done.stdout
    assert result_of(run_folder(tmp_path))["fits"] is True


@pytest.mark.slow
def test_several_plans_end_in_a_narrow_table_of_what_fits(tmp_path: Path) -> None:
    memory = ["device_memory=2MB,80MB", "trainer.devices=2"]
    done = plan(tmp_path, "-m", "model=tiny", "stage=sft", "strategy=single,fsdp2", *memory)
    assert done.returncode == 0, done.stderr
    table = done.stdout[done.stdout.rindex(" run ") :].partition("\n\n")[0].splitlines()
    assert {"strategy", "device_memory", "fits", "micro_batch"} <= set(table[0].split())
    assert max(map(len, table)) <= 100
    assert "needs" in done.stdout.partition("table")[0]


def test_a_size_that_cannot_be_read_is_one_message(tmp_path: Path) -> None:
    done = plan(tmp_path, "model=tiny", "device_memory=much")
    assert done.returncode == 2
    assert "device_memory=much: expected a size" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_says_its_plan_and_shows_it_on_the_run_card(tmp_path: Path) -> None:
    done = command(tmp_path, *keep(TINY, "sft"))
    assert done.returncode == 0, done.stderr
    assert re.search(r"planned peak: [\d.]+ MiB", done.stdout)
    folder = run_folder(tmp_path)
    assert json.loads((folder / "plan.json").read_text())["peak_bytes_per_device"] > 0
    assert ">Planned<" in (folder / "report.html").read_text()


def test_the_table_of_the_page_has_96_plans_within_a_tenth_of_what_was_measured() -> None:
    page = (ROOT / "docs" / "planner.md").read_text(encoding="utf-8")
    table = page.partition("<!-- accuracy -->")[2].partition("<!-- /accuracy -->")[0]
    pairs = re.findall(r"([\d,]+) \| ([\d,]+) \| ([+-][\d.]+)%", table)
    errors = []
    for measured, planned, said in pairs:
        errors.append(int(planned.replace(",", "")) / int(measured.replace(",", "")) - 1)
        # The sizes in the table are rounded to a MiB.
        assert 100 * errors[-1] == pytest.approx(float(said), abs=100 / int(measured.replace(",", "")) + 0.1)
    assert len(errors) == 96
    assert max(map(abs, errors)) <= 0.1
    assert median(map(abs, errors)) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "opt lora single",
        "opt shared single",
        "gpt2 full single",
        "llama lora deepspeed_zero2",
        "bloom shared deepspeed_zero3",
        "llama full fsdp2",
    ],
)
def test_a_plan_is_within_a_tenth_of_what_a_run_takes(words: str, plan_accuracy: Any, tmp_path: Path) -> None:
    family, nets, strategy = words.split()
    plan_accuracy.write_nets(family, tmp_path)
    record = plan_accuracy.measure(tmp_path, nets, strategy, environ())
    assert max(map(abs, plan_accuracy.differences(record))) <= 0.1, record


def test_rows_that_were_measured_again_replace_those_of_the_table(plan_accuracy: Any) -> None:
    page = (ROOT / "docs" / "planner.md").read_text(encoding="utf-8")
    assert plan_accuracy.with_rows(page, {}) == page
    case = ("llama", "lora", "fsdp2")
    record = {"measured": {"rollout": 2**20, "update": 2**21}, "planned": {"rollout": 2**20, "update": 3 * 2**20}}
    changed = plan_accuracy.with_rows(page, {case: plan_accuracy.row(case, record)})
    assert "\n| llama | lora | `fsdp2` | 1 | 1 | +0.0% | 2 | 3 | +50.0% |\n" in changed
    assert "Largest difference 50.0%" in changed
    assert len(changed.splitlines()) == len(page.splitlines())
