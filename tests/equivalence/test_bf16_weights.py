"""Models that are built in bfloat16 train like those in fp32, whatever the strategy."""

from pathlib import Path

import pytest
from cases import CASES
from compare import differences, launch, trajectory
from support import once

# At this rate a weight in bf16 moves only if it is smaller than 3e-4, and the weights of the model are around 0.06.
RATES = ("STAGE.module.lr=1e-6", "stages=sft,ppo")
STRATEGIES = ["ddp", "fsdp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3", "colossalai_zero2", "colossalai_gemini"]


@pytest.fixture(scope="session")
def in_fp32(single: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "in_fp32", lambda folder: launch(folder, "single", *RATES, f"start={single}"))


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_weights_built_in_bf16_move_as_those_in_fp32_do(name: str, single: Path, in_fp32: Path, tmp_path: Path) -> None:
    settings = [s for s in CASES[name].settings if not s.startswith("trainer.precision")]
    launch(
        tmp_path,
        name,
        "trainer.devices=2",
        "trainer.precision=bf16-mixed",
        "model.dtype=bfloat16",
        *settings,
        *RATES,
        f"start={single}",
        worker=CASES[name].worker,
    )
    for stage in ("sft", "ppo"):
        (moved,), (expected,) = trajectory(tmp_path, stage)["moved"], trajectory(in_fp32, stage)["moved"]
        assert expected > 0.5
        assert moved == pytest.approx(expected, abs=0.02)
    # The bound allows for the rounding of bf16 in the passes.
    assert differences(tmp_path, in_fp32, "sft")["loss"] < 5e-3
    # The reference is in the same precision as the actor.
    assert trajectory(tmp_path, "ppo")["kl"][0] == pytest.approx(0, abs=1e-6)
