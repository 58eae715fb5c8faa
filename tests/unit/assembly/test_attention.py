"""A run gets flash attention where its settings name no attention and it fits."""

import pytest
from hydra import compose, initialize_config_module

from lightning_rlhf.assembly import attention
from lightning_rlhf.assembly.attention import attention_of
from lightning_rlhf.assembly.plan_job import job_of
from lightning_rlhf.models.attention import FLASH
from lightning_rlhf.planner.plan import Plan

GPU = ["trainer=gpu", "trainer.devices=1"]


def chosen(*overrides: str, stage: str = "sft") -> str | None:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("train", ["model=tiny", f"stage={stage}", *overrides])
    return attention_of(config, config[stage])


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "flash_is_installed", lambda: True)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (GPU, FLASH),
        ([*GPU, "model.attn_implementation=sdpa"], "sdpa"),
        ([*GPU, "trainer.precision=32-true"], None),
        ([*GPU, "+sft.trainer.precision=32-true"], None),
        ([*GPU, "model.compile=true"], None),
        (["trainer.accelerator=cpu", "trainer.precision=bf16-mixed"], None),
    ],
)
def test_flash_attention_is_chosen_on_a_gpu_in_16_bits_unless_settings_say_otherwise(
    overrides: list[str], expected: str | None
) -> None:
    assert chosen(*overrides) == expected


def test_without_the_package_nothing_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "flash_is_installed", lambda: False)
    assert chosen(*GPU) is None


def test_a_plan_needs_no_flash_attention() -> None:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        plans = [
            Plan(job_of(compose("plan", ["model=tiny", "stage=sft", *GPU, *more]), "sft"))
            for more in ([], [f"model.attn_implementation={FLASH}"])
        ]
    assert plans[0].peak.total == plans[1].peak.total
