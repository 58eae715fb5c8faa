"""DeepSpeed in two processes, and what can be tested without processes."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from support import environ
from unit.strategies.deepspeed.deepspeed_worker import SOURCE, Module

from lightning_rlhf.errors import UserError
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.strategies.deepspeed.checkpoint import check, is_deepspeed_checkpoint, load_weights, read_weights
from lightning_rlhf.strategies.deepspeed.checks import check_settings
from lightning_rlhf.strategies.deepspeed.ops import check_offloaded
from lightning_rlhf.strategies.deepspeed.precision import Precision
from lightning_rlhf.strategies.deepspeed.strategy import DeepSpeedStrategy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed: the extra deepspeed"),
]
WORKER = Path(__file__).with_name("deepspeed_worker.py")
NET = 2 * (4 * 16 * 16 + 3 * 16 * 24 + 2 * 16) + 33 * 16 + 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of two fits in a row."""
    folder = tmp_path_factory.mktemp("deepspeed")
    load_causal_lm(SOURCE).save_pretrained(folder / "start")
    done = subprocess.run(
        [sys.executable, str(WORKER), str(folder)],
        env=environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    (folder / "said").write_text(done.stdout + done.stderr)
    return folder


@pytest.fixture(params=["zero3", "zero2"])
def stage(request: pytest.FixtureRequest) -> str:
    return request.param


def seen(folder: Path, stage: str, rank: int = 0) -> Any:
    return json.loads((folder / f"seen_{rank}.json").read_text())[stage]


def test_zero_3_spreads_a_net_while_it_is_loaded(folder: Path) -> None:
    assert [seen(folder, stage)["spread_at_once"] for stage in ("zero3", "zero2")] == [True, False]


def test_weights_keep_their_values_and_what_was_written_to_them(folder: Path, stage: str) -> None:
    assert seen(folder, stage)["like_start"]
    assert seen(folder, stage)["written"] == [1.5] * 16


def test_only_the_first_process_gets_whole_weights(folder: Path, stage: str) -> None:
    assert "lm_head.weight" in seen(folder, stage)["state"]
    assert seen(folder, stage, rank=1)["state"] == []


def test_weights_are_counted_over_all_processes(folder: Path, stage: str) -> None:
    assert seen(folder, stage, rank=1)["parameters"] == [2 * NET + 1, NET + 1]


def test_matrices_decay_and_others_do_not(folder: Path, stage: str) -> None:
    assert seen(folder, stage)["decayed"] == 2 * 7 + 1


def test_a_gathered_net_computes_alone_and_stays_whole(folder: Path, stage: str) -> None:
    for rank in (0, 1):
        assert seen(folder, stage, rank)["stays_whole"]
        assert seen(folder, stage, rank)["whole_differs"] < 1e-6


def test_a_net_that_is_not_gathered_computes_layer_by_layer(folder: Path, stage: str) -> None:
    assert seen(folder, stage)["layers_differ"] < 1e-6


def test_what_is_written_to_whole_weights_outlives_the_next_step(folder: Path, stage: str) -> None:
    trained, frozen = seen(folder, stage)["after_steps"]
    assert trained == pytest.approx([6.5] * 16, abs=0.01)
    assert frozen == [6.0] * 16


def test_a_checkpoint_is_read_without_processes_and_has_no_frozen_weights(folder: Path, stage: str) -> None:
    checkpoint = folder / f"{stage}.ckpt"
    assert is_deepspeed_checkpoint(checkpoint)
    weights = read_weights(checkpoint)
    assert {name.split(".")[0] for name in weights} == {"net", "scale"}
    assert weights["net.lm_head.weight"].shape == (33, 16)
    assert weights["net.model.norm.weight"].tolist() == pytest.approx([6.5] * 16, abs=0.02)


def test_a_checkpoint_takes_the_place_of_an_older_one(folder: Path) -> None:
    left = {path.name for path in folder.iterdir() if "ckpt" in path.name}
    assert left == {"zero3.ckpt", "zero2.ckpt"}


def test_what_training_took_is_free_when_it_is_released(folder: Path) -> None:
    assert json.loads((folder / "seen_0.json").read_text())["freed"]


def test_it_says_nothing_of_itself(folder: Path) -> None:
    said = (folder / "said").read_text()
    for notice in (
        "built successfully",
        "Invalidate trace",
        "initializing deepspeed",
        "torch.distributed.",
        "WARNING",
        "shard of",
    ):
        assert notice not in said


def test_batches_and_buffers_keep_their_digits() -> None:
    plugin, exact = Precision("bf16-mixed"), torch.tensor([1.001])
    assert plugin.convert_input({"logprobs": exact})["logprobs"] is exact
    buffers = torch.nn.BatchNorm1d(1)
    assert Precision("bf16-true").convert_module(buffers).running_mean.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stage": 4}, "stage=4 must be 1, 2 or 3"),
        ({"stage": 2, "offload_parameters": True}, "need stage=3"),
        ({"stage": 3, "offload_device": "nvme"}, "needs nvme_path"),
        ({"stage": 3, "others": {"stages": 3}}, "stages=3: there is no such setting"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    defaults = {"offload_parameters": False, "offload_device": "cpu", "nvme_path": None, "others": {}}
    with pytest.raises(UserError, match=message):
        check_settings(**defaults | settings)


def test_fp16_on_the_cpu_is_refused_before_nets_are_built(tmp_path: Path) -> None:
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", devices=1, precision="16-mixed", strategy=DeepSpeedStrategy(), **options)
    module = Module(tmp_path / "absent")
    with pytest.raises(UserError, match="no fp16 on the CPU"):
        trainer.fit(module)


def test_an_offloaded_optimizer_must_compute_on_the_cpu() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
    config = DeepSpeedStrategy(offload_optimizer=True).config
    with pytest.raises(UserError, match="set optim=cpu_adamw"):
        check_offloaded(optimizer, config)
    check_offloaded(optimizer, DeepSpeedStrategy().config)


def test_a_run_goes_on_only_from_what_as_many_processes_of_its_kind_wrote(folder: Path, tmp_path: Path) -> None:
    check(folder / "zero3.ckpt", processes=2, zero3=True)
    with pytest.raises(UserError, match="2 processes wrote it.*this run has 4"):
        check(folder / "zero3.ckpt", processes=4, zero3=True)
    with pytest.raises(UserError, match="ZeRO 3 wrote it, and this run uses ZeRO 1 or 2"):
        check(folder / "zero3.ckpt", processes=2, zero3=False)
    with pytest.raises(UserError, match="DeepSpeed has not written it"):
        check(tmp_path, processes=2, zero3=True)


def test_a_checkpoint_whose_optimizer_was_on_nvme_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint" / "offloaded_tensors").mkdir(parents=True)
    (tmp_path / "latest").touch()
    (tmp_path / "checkpoint" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()
    with pytest.raises(UserError, match="NVMe"):
        check(tmp_path, processes=1, zero3=True)
    with pytest.raises(UserError, match="NVMe"):
        read_weights(tmp_path)


def test_weights_are_loaded_strictly_but_for_unchanged_nets() -> None:
    nets = torch.nn.ModuleDict({"net": torch.nn.Linear(2, 1), "frozen": torch.nn.Linear(2, 1)})
    own = {name: torch.ones_like(weight) for name, weight in nets.state_dict().items() if name.startswith("net.")}
    load_weights(own, nets, unchanged=("frozen.",), strict=True)
    assert nets["net"].bias.item() == 1
    with pytest.raises(UserError, match="frozen.weight"):
        load_weights(own, nets, unchanged=(), strict=True)
