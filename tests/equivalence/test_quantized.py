"""With adapters beside 4-bit weights, two processes give the numbers of one, with four models or a shared one."""

from pathlib import Path

import pytest
from compare import differences, launch, weight_difference
from worker import STAGES


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "roles"), [("ddp", "separate"), ("deepspeed_zero2", "shared")])
def test_two_processes_train_the_adapters_of_one(strategy: str, roles: str, tmp_path: Path) -> None:
    settings = ("adapter=lora", "model.quantization=nf4", f"roles={roles}", f"start={tmp_path / 'single'}")
    launch(tmp_path / "single", "single", *settings)
    launch(tmp_path / "two", strategy, "trainer.devices=2", *settings)
    for stage in STAGES:
        assert max(differences(tmp_path / "two", tmp_path / "single", stage).values()) < 1e-5
        adapters = (tmp_path / run / stage / "adapter" for run in ("two", "single"))
        assert weight_difference(*adapters) < 1e-5
