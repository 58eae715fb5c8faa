"""The settings of a benchmark, which are checked before torch is imported."""

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from lightning_rlhf.assembly.benchmark_nets import dtype_of
from lightning_rlhf.assembly.benchmark_settings import BenchmarkSettings, _without_effect, check_benchmark
from lightning_rlhf.assembly.config_files import Setting, command_file, settings
from lightning_rlhf.errors import UserError
from lightning_rlhf.stages import STAGES


def configured(*overrides: str) -> DictConfig:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return compose("benchmark", ["run_dir=run", *overrides])


def test_prompts_have_one_length_unless_there_is_a_lower_bound() -> None:
    assert BenchmarkSettings.of(configured("prompt_length=48")).min_prompt_length == 48
    assert BenchmarkSettings.of(configured("prompt_length=48", "min_prompt_length=8")).min_prompt_length == 8


def test_one_iteration_beside_the_measured_ones_measures_the_memory() -> None:
    assert BenchmarkSettings.of(configured("warmup=2", "repeats=5")).iterations == 8


def test_settings_of_a_benchmark_are_those_of_the_run() -> None:
    config = configured("rollout_batch_size=16", "minibatch_size=4", "ppo_epochs=3", "response_length=24")
    module = config.ppo.module
    assert (module.rollout_batch_size, module.minibatch_size, module.ppo_epochs) == (16, 4, 3)
    assert module.sampling.max_new_tokens == 24
    # Weights are random, whatever the size would load.
    assert configured("model=gpt2/small").model.pretrained is None


NO_EFFECT = "a benchmark has no data, callbacks, loggers or checkpoints, so it has no effect: leave it out"
WHOLE = "a benchmark measures whole iterations, whose number repeats sets: leave it out"


def problems_of(*overrides: str) -> list[str]:
    """The messages about a command line."""
    config = configured(*overrides)
    stage = next((text.partition("=")[2] for text in overrides if text.startswith("stage=")), "ppo")
    with pytest.raises(UserError) as error:
        check_benchmark(config, overrides, {"stage": stage, "model": "tiny"})
    return str(error.value).splitlines()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prompt_length=0", "prompt_length=0: must be a positive whole number"),
        ("prompt_length=true", "prompt_length=True: must be a positive whole number"),
        ("repeats=1.5", "repeats=1.5: must be a positive whole number"),
        ("rollout_batch_size=abc", "rollout_batch_size=abc: must be a positive whole number"),
        ("ppo_epochs=null", "ppo_epochs=None: must be a positive whole number"),
        (
            "ppo.module.credit.num_samples_per_prompt=0",
            "ppo.module.credit.num_samples_per_prompt=0: must be a positive whole number",
        ),
        ("warmup=-1", "warmup=-1: must be a whole number that is not negative"),
        ("warmup=false", "warmup=False: must be a whole number that is not negative"),
        ("min_prompt_length=33", "min_prompt_length=33: must lie between 1 and prompt_length=32"),
        ("length_distribution=uniform", "length_distribution=uniform: expected fixed or geometric"),
        ("random_reward_model=2", "random_reward_model=2: expected true or false"),
        (
            "ppo.module.ppo_epochs=2",
            "ppo.module.ppo_epochs: in a benchmark ppo_epochs takes its place: set ppo_epochs=2",
        ),
        ("data.max_length=9", f"data.max_length: {NO_EFFECT}"),
        ("logger=csv", f"logger: {NO_EFFECT}"),
        ("dry_run=true", "dry_run: a benchmark cannot be rehearsed: leave it out"),
        ("stage=sft", "stage=sft: a benchmark measures iterations of PPO: leave it out"),
        ("stages=[sft]", "stages=[sft]: a benchmark measures iterations of PPO: leave it out"),
        ("+trainer.max_steps=1", f"trainer.max_steps=1: {WHOLE}"),
        ("+trainer.max_time=1", f"trainer.max_time=1: {WHOLE}"),
        ("+ppo.trainer.limit_train_batches=1", f"ppo.trainer.limit_train_batches=1: {WHOLE}"),
        ("+trainer.fast_dev_run=true", f"trainer.fast_dev_run=True: {WHOLE}"),
        ("+device_memory=8GB", "device_memory: there is no such setting, and no other setting refers to it"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(override: str, message: str) -> None:
    assert problems_of(override) == [message]


def test_a_setting_that_is_taken_away_has_nothing_to_set() -> None:
    (message,) = _without_effect(["~ppo.module.ppo_epochs"])
    assert message == "ppo.module.ppo_epochs: in a benchmark ppo_epochs takes its place: leave it out"


@pytest.mark.parametrize("setting", settings(command_file("benchmark")), ids=lambda setting: setting.name)
def test_every_setting_of_a_benchmark_can_be_given(setting: Setting) -> None:
    override = f"{setting.name}={setting.default}"
    check_benchmark(configured(override), [override], {"stage": "ppo", "model": "tiny", "experiment": "none"})


def test_no_setting_of_a_benchmark_is_called_like_the_block_of_a_stage() -> None:
    blocks = {record.block for record in STAGES.values()}
    assert blocks.isdisjoint(setting.name for setting in settings(command_file("benchmark")))


def test_mistakes_of_all_kinds_are_named_together() -> None:
    overrides = ["data.max_length=9", "prompt_length=abc", "min_prompt_length=3", "minibatch_size=5", "+promt_length=3"]
    assert [line.partition(":")[0].partition(" ")[0] for line in problems_of(*overrides)] == [
        *("data.max_length", "prompt_length=abc", "promt_length"),
        "rollout_batch_size=32",
    ]


@pytest.mark.parametrize(
    ("weights", "precision", "expected"),
    [
        (torch.float64, "64-true", torch.float64),
        (torch.bfloat16, "32-true", torch.bfloat16),
        (torch.float32, "bf16-mixed", torch.bfloat16),
        (torch.float32, "16-mixed", torch.float16),
        (torch.float32, "32-true", torch.float32),
    ],
)
def test_the_computation_has_the_type_of_autocast_or_of_the_weights(
    weights: torch.dtype, precision: str, expected: torch.dtype
) -> None:
    net = torch.nn.Linear(2, 2, dtype=weights)
    # Quantized weights are no numbers of a computation.
    packed = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(2, dtype=torch.uint8), requires_grad=False)])
    assert dtype_of(torch.nn.Sequential(packed, net), precision) == expected
